//! What did not happen, as a D-Bus error.

use crate::model::Failure;
use crate::proto::{BUS_ERROR_PREFIX, FAULT_NAME, codes};
use zbus::message::Header;
use zbus::names::ErrorName;
use zbus::{DBusError, Message};

/// A refusal or a fault on its way to a caller.
///
/// Its name is the refusal's in the table of `proto`; its one argument is the sentence with the refusal's fields in
/// it, and the hint where there is one.
#[derive(Debug)]
pub(super) struct BusError {
    name: String,
    text: String,
}

impl BusError {
    fn name_of(name: &str) -> String {
        format!("{BUS_ERROR_PREFIX}{name}")
    }
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => {
                let text = match refusal.hint() {
                    Some(hint) => format!("{refusal} ({hint})"),
                    None => refusal.to_string(),
                };
                Self { name: Self::name_of(codes(&refusal).name), text }
            }
            Failure::Fault(fault) => Self { name: Self::name_of(FAULT_NAME), text: fault.to_string() },
        }
    }
}

impl DBusError for BusError {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name())?.build(&(self.text.as_str(),))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_str_unchecked(&self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CgroupPath, Fault, Limit, Refusal, SetId};

    fn refused(refusal: Refusal) -> BusError {
        Failure::from(refusal).into()
    }

    #[test]
    fn the_name_is_the_tables_and_the_text_has_every_field() {
        let cgroup: CgroupPath = "/machine.slice".parse().unwrap();
        let error = refused(Refusal::LimitExceeded { cgroup, max: Limit::Count(64), current: 63, asked: 2 });
        assert_eq!(error.name().as_str(), "org.ioasid1.Error.LimitExceeded");
        for field in ["/machine.slice", "64", "63", "2 more", "set-max"] {
            assert!(error.text.contains(field), "{field} in {}", error.text);
        }
        let error = refused(Refusal::QuotaExceeded { set: SetId(5), quota: 7, leased: 6, asked: 3 });
        assert!(["5", "7", "6", "3"].iter().all(|field| error.text.contains(field)), "{}", error.text);
    }

    #[test]
    fn a_fault_is_internal() {
        let error = BusError::from(Failure::from(Fault::new("no memory")));
        assert_eq!((error.name().as_str(), error.text.as_str()), ("org.ioasid1.Error.Internal", "no memory"));
    }
}
