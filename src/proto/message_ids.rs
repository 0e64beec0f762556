//! The journal's message ids: one a kind of event, never used for another.
//!
//! What each means to people is in `packaging/journal/ioasidd.catalog`; fields that go with it are called `IOASID_…`.
//! Source: journald's `MESSAGE_ID`, sd_journal_print(3), sd-id128(3).

/// A limit refused PASIDs.
pub const LIMIT_HIT: &str = "700b147f78ae58f7ae54c418897170be";
/// A set of PASIDs was made.
pub const SET_ADDED: &str = "ce766f6d96da50b88bf03d05e5d5be19";
/// A set of PASIDs is gone.
pub const SET_REMOVED: &str = "282b87965f8253ea9ef8c75c60f7a01c";
/// A set of PASIDs was revoked.
pub const SET_REVOKED: &str = "e858b836b3405e2da49b0d2839f80e13";
/// The limit of a cgroup was changed.
pub const MAX_CHANGED: &str = "f45b5655382055a980b2a6f7689d7151";
/// The charge of a set was moved.
pub const RECHARGED: &str = "4e4109a7b11b5fa39b49a0735e95846a";
/// The peak of a cgroup was reset.
pub const PEAK_RESET: &str = "8811e7e77cab5ce096ef725d65113f67";
/// The policy was read again.
pub const POLICY_RELOADED: &str = "0d064135663c52fb8c4f1870639192e1";
/// The policy is bad and was not taken.
pub const POLICY_BAD: &str = "5195dffd61a452cba2109ecb47ff52fd";
/// Records of an earlier service could not be used.
pub const RECORDS_SET_ASIDE: &str = "2f5282a69c3a5c7291af30808cc7e4a0";
/// The service failed at something.
pub const FAULT: &str = "963b20f985e85e92be26443e56b28c71";

/// Every kind with its id.
pub const MESSAGE_IDS: &[(&str, &str)] = &[
    ("limit-hit", LIMIT_HIT),
    ("set-added", SET_ADDED),
    ("set-removed", SET_REMOVED),
    ("set-revoked", SET_REVOKED),
    ("max-changed", MAX_CHANGED),
    ("recharged", RECHARGED),
    ("peak-reset", PEAK_RESET),
    ("policy-reloaded", POLICY_RELOADED),
    ("policy-bad", POLICY_BAD),
    ("records-set-aside", RECORDS_SET_ASIDE),
    ("fault", FAULT),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const CATALOG: &str = include_str!("../../packaging/journal/ioasidd.catalog");

    #[test]
    fn every_kind_has_an_id_of_its_own_and_words_in_the_catalog() {
        let in_catalog: Vec<&str> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        assert_eq!(in_catalog, MESSAGE_IDS.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        assert_eq!(in_catalog.iter().collect::<BTreeSet<_>>().len(), MESSAGE_IDS.len());
        for (kind, id) in MESSAGE_IDS {
            assert!(id.len() == 32 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{kind}");
        }
        assert_eq!(CATALOG.matches("\nSubject: ").count(), MESSAGE_IDS.len());
    }
}
