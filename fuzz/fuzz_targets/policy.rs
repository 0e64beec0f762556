//! Policy text: checked or told what is wrong with it; the telling renders.
#![no_main]

use ioasid::policy::{HostAccounts, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = check(&[("fuzz.toml".to_owned(), text.to_owned())], &HostAccounts) {
        assert!(!problems.render(false).is_empty());
    }
});
