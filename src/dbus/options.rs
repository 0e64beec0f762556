//! Options of a call: `a{sv}` with known keys and exact types.

use crate::model::{CgroupPath, PasidRange, Refusal, SetRequest};
use std::collections::HashMap;
use zbus::zvariant::{OwnedValue, Value};

/// Options that are taken one by one; what is left over is refused.
pub(super) struct Options {
    given: HashMap<String, OwnedValue>,
    known: &'static str,
}

impl Options {
    /// The options that a caller gave, of those that are `known`, as its refusal names them.
    pub fn new(given: HashMap<String, OwnedValue>, known: &'static str) -> Self {
        Self { given, known }
    }

    /// Takes a number of type `u`.
    pub fn number(&mut self, key: &str) -> Result<Option<u32>, Refusal> {
        match self.given.remove(key).as_deref() {
            None => Ok(None),
            Some(Value::U32(number)) => Ok(Some(*number)),
            Some(other) => Err(wrong_type(key, other, "a number of D-Bus type u")),
        }
    }

    /// Takes a yes or no of type `b`; left out it is no.
    pub fn flag(&mut self, key: &str) -> Result<bool, Refusal> {
        match self.given.remove(key).as_deref() {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong_type(key, other, "a yes or no of D-Bus type b")),
        }
    }

    /// Takes a text of type `s`.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.given.remove(key).as_deref() {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text.as_str().to_owned())),
            Some(other) => Err(wrong_type(key, other, "a text of D-Bus type s")),
        }
    }

    /// Takes a cgroup path of type `s`.
    pub fn cgroup(&mut self, key: &str) -> Result<Option<CgroupPath>, Refusal> {
        self.text(key)?.map(|text| cgroup_path(key, &text)).transpose()
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), Refusal> {
        // The least one, so that the same call is refused in the same words.
        match self.given.keys().min() {
            None => Ok(()),
            Some(unknown) => Err(Refusal::invalid("options", unknown, format!("one of {}", self.known))),
        }
    }
}

fn wrong_type(key: &str, value: &Value<'_>, expected: &str) -> Refusal {
    Refusal::invalid(key, format!("a value of type {}", value.value_signature()), expected)
}

/// The cgroup that the text in `field` names.
pub(super) fn cgroup_path(field: &str, text: &str) -> Result<CgroupPath, Refusal> {
    text.parse().map_err(|malformed| Refusal::malformed(field, &malformed))
}

/// What CreateSet's options ask for.
pub(super) fn set_request(given: HashMap<String, OwnedValue>) -> Result<SetRequest, Refusal> {
    let mut options = Options::new(given, "quota, min, max, domain, label, cgroup, iommufd");
    let quota = options.number("quota")?;
    let (min, max) = (options.number("min")?, options.number("max")?);
    let domain = match options.text("domain")? {
        Some(text) => text.parse().map_err(|malformed| Refusal::malformed("domain", &malformed))?,
        None => crate::model::Domain::default(),
    };
    let label = options.text("label")?.unwrap_or_default();
    let cgroup = options.cgroup("cgroup")?;
    let iommufd = options.flag("iommufd")?;
    options.finish()?;
    Ok(SetRequest { quota, range: range(min, max)?, domain, label, cgroup, iommufd })
}

/// The range from `min` to `max`; what is left out does not bound it.
fn range(min: Option<u32>, max: Option<u32>) -> Result<Option<PasidRange>, Refusal> {
    if min.is_none() && max.is_none() {
        return Ok(None);
    }
    let (least, most) = (min.unwrap_or(PasidRange::ALL.min()), max.unwrap_or(PasidRange::ALL.max()));
    let expected = "a range of PASIDs: min is no more than max, and max no more than 1048575";
    let field = if max.is_some_and(|max| max > PasidRange::ALL.max()) { "max" } else { "min" };
    let value = if field == "max" { most } else { least };
    PasidRange::new(least, most).map(Some).ok_or_else(|| Refusal::invalid(field, value, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, Value<'_>)]) -> HashMap<String, OwnedValue> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), OwnedValue::try_from(value).unwrap())).collect()
    }

    #[test]
    fn known_options_of_the_right_type_are_taken() {
        let options = [
            ("quota", Value::from(8_u32)),
            ("min", Value::from(5000_u32)),
            ("domain", Value::from("pci:0000:00:01.0")),
            ("label", Value::from("a guest")),
            ("cgroup", Value::from("/machine.slice")),
            ("iommufd", Value::from(true)),
        ];
        let request = set_request(given(&options)).unwrap();
        assert_eq!(request.quota, Some(8));
        assert_eq!(request.range, PasidRange::new(5000, (1 << 20) - 1));
        assert_eq!((request.domain.to_string().as_str(), request.label.as_str()), ("pci:0000:00:01.0", "a guest"));
        assert!(request.iommufd);
        assert_eq!(request.cgroup.unwrap().as_str(), "/machine.slice");
        assert_eq!(set_request(HashMap::new()).unwrap(), SetRequest::default());
    }

    #[test]
    fn wrong_types_and_unknown_options_are_refused_by_name() {
        let refused = |pairs: &[(&str, Value<'_>)]| match set_request(given(pairs)).unwrap_err() {
            Refusal::InvalidArgument { field, value, .. } => (field, value),
            other => panic!("{other}"),
        };
        let pair = |field: &str, value: &str| (field.to_owned(), value.to_owned());
        assert_eq!(refused(&[("quota", Value::from(8_i32))]), pair("quota", "a value of type i"));
        assert_eq!(refused(&[("quota", Value::from(8_u64))]), pair("quota", "a value of type t"));
        assert_eq!(refused(&[("label", Value::from(8_u32))]), pair("label", "a value of type u"));
        assert_eq!(refused(&[("pid", Value::from(8_u32))]), pair("options", "pid"));
        assert_eq!(refused(&[("min", Value::from(9_u32)), ("max", Value::from(8_u32))]), pair("min", "9"));
        assert_eq!(refused(&[("max", Value::from(1_u32 << 20))]), pair("max", "1048576"));
        assert_eq!(refused(&[("domain", Value::from("Global"))]), pair("domain", "Global"));
        assert_eq!(refused(&[("cgroup", Value::from("machine"))]), pair("cgroup", "machine"));
    }
}
