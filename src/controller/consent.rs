//! Asking polkit, wherever it is.

use super::authority::{Permit, Verdict};
use super::{Caller, Controller, Deed};
use crate::model::Failure;
use std::future::Future;
use std::pin::Pin;

/// What polkit said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go ahead.
    Yes,
    /// No.
    No,
    /// A person would have to be asked for a password, and is not, with the reason.
    WantsPerson(&'static str),
    /// It could not be asked, with the reason.
    Away(String),
}

/// Somebody who can ask polkit. Without one, only administrators pass what polkit would be asked.
pub trait Consent: Send + Sync {
    /// Asks whether the caller may do `action`. The subject is built from the pinned process and the kernel's uid alone.
    ///
    /// `interactive`: whether a person may be asked for a password.
    fn ask<'a>(
        &'a self,
        caller: &'a Caller,
        action: &'static str,
        details: Vec<(&'static str, String)>,
        interactive: bool,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
}

impl Controller {
    /// Authorizes a deed, with polkit's consent where it takes that: the one function that every method of every
    /// edge goes through.
    pub async fn permit(
        &self,
        caller: &Caller,
        deed: Deed<'_>,
        consent: Option<&dyn Consent>,
        interactive: bool,
    ) -> Result<Permit, Failure> {
        let question = match self.authorize(caller, deed)? {
            Verdict::Permitted(permit) => return Ok(permit),
            Verdict::Ask(question) => question,
        };
        let Some(consent) = consent else {
            return Err(question.unanswered("polkit was not asked: there is no bus").into());
        };
        // No administrator, or it were permitted by now: a container's root, or a connection whose process gave root up.
        if caller.uid == 0 {
            return Err(question.unanswered("polkit was not asked: it says yes to every uid 0").into());
        }
        match consent.ask(caller, question.action, question.details.clone(), interactive).await {
            Answer::Yes => Ok(question.answered(true)?),
            Answer::No => Ok(question.answered(false)?),
            Answer::WantsPerson(why) => Err(question.unanswered(why).into()),
            Answer::Away(why) => Err(question.unanswered(&format!("polkit was not asked: {why}")).into()),
        }
    }
}
