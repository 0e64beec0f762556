//! Policy text: checked or told what is wrong with it; the telling renders.
#![no_main]

use ioasid::policy::{Accounts, check};
use libfuzzer_sys::fuzz_target;

/// Accounts of its own: the host's take a hundred times as long as the text.
struct Few;

impl Accounts for Few {
    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        match name {
            "root" => Ok(Some(0)),
            "broken" => Err("the accounts cannot be read".to_owned()),
            name => Ok((name.len() % 2 == 0).then_some(1000)),
        }
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        self.uid(name)
    }
}

fuzz_target!(|text: &str| {
    if let Err(problems) = check(&[("fuzz.toml".to_owned(), text.to_owned())], &Few) {
        assert!(!problems.render(false).is_empty());
    }
});
