//! Faults: what is nobody's refusal.

use std::error::Error;
use std::fmt;

/// A bug, or a system call of the service's own that failed: EIO outside, logged once with its chain.
///
/// Each step that hands it on may name its object with [`Fault::while_doing`].
#[derive(Debug)]
pub struct Fault {
    /// The chain, outermost first.
    steps: Vec<String>,
}

impl Fault {
    /// A fault with this innermost cause, a lower-case clause that names subject and value.
    pub fn new(cause: impl Into<String>) -> Self {
        Self { steps: vec![cause.into()] }
    }

    /// The fault that `error` is, with every source it names.
    pub fn from_error(error: &dyn Error) -> Self {
        let mut steps = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            steps.push(cause.to_string());
            source = cause.source();
        }
        Self { steps }
    }

    /// The same fault, seen from one step further out.
    #[must_use]
    pub fn while_doing(mut self, step: impl Into<String>) -> Self {
        self.steps.insert(0, step.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.steps.join(": "))
    }
}

impl Error for Fault {}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_from_outside_in() {
        let fault = Fault::from(std::io::Error::other("no room")).while_doing("write /run/x").while_doing("save");
        assert_eq!(fault.to_string(), "save: write /run/x: no room");
    }
}
