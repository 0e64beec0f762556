//! The meaning of words: text to values. What has none is refused as `InvalidArgument`, which is no wrong usage.

use super::arguments::SetArguments;
use super::outcome::Failed;
use crate::model::{
    CgroupPath, Domain, Limit, Malformed, Pasid, PasidRange, Refusal, SetRequest, parse_base0, trim_blanks,
};
use std::str::FromStr;

const A_COUNT: &str = "a number of ids, at least 1";
const A_BOUND: &str = "a PASID, 1 to 1048575";

/// `text` as what `field` takes.
pub(super) fn parse<T: FromStr<Err = Malformed>>(field: &str, text: &str) -> Result<T, Failed> {
    text.parse().map_err(|malformed| Refusal::malformed(field, &malformed).into())
}

/// `text` as a number, base 0.
pub(super) fn number<T: TryFrom<u64>>(field: &str, text: &str, expected: &str) -> Result<T, Failed> {
    parse_base0(trim_blanks(text))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| Refusal::invalid(field, text, expected).into())
}

/// The number of a set.
pub(super) fn set(text: &str) -> Result<u64, Failed> {
    number("set", text, "the number of a set")
}

/// A quota in ids.
pub(super) fn quota(text: &str) -> Result<u32, Failed> {
    number("quota", text, "a number of ids")
}

/// How many ids, at least one.
pub(super) fn count(text: &str) -> Result<u32, Failed> {
    match number("count", text, A_COUNT)? {
        0 => Err(Refusal::invalid("count", text, A_COUNT).into()),
        count => Ok(count),
    }
}

/// A PASID.
pub(super) fn pasid(text: &str) -> Result<Pasid, Failed> {
    parse("pasid", trim_blanks(text))
}

/// An alias.
pub(super) fn vpasid(text: &str) -> Result<u64, Failed> {
    number("vpasid", text, "the number of an alias")
}

/// A uid.
pub(super) fn uid(text: &str) -> Result<u32, Failed> {
    number("peer-uid", text, "the number of a user")
}

/// A cgroup's path.
pub(super) fn cgroup(text: &str) -> Result<CgroupPath, Failed> {
    parse("cgroup", text)
}

/// Whether `text` is what `set-max` takes; the text itself goes to the service.
pub(super) fn check_max(text: &str) -> Result<(), Failed> {
    if trim_blanks(text) == "policy" || text.parse::<Limit>().is_ok() {
        return Ok(());
    }
    Err(Refusal::invalid("max", text, "a number of ids, max or policy").into())
}

/// The range from `--min` to `--max`, both included; `None` where neither is given.
pub(super) fn range(min: Option<&str>, max: Option<&str>) -> Result<Option<PasidRange>, Failed> {
    if min.is_none() && max.is_none() {
        return Ok(None);
    }
    let least = min.map_or(Ok(Pasid::FIRST.get()), |text| bound("min", text))?;
    let greatest = max.map_or(Ok(Pasid::LAST.get()), |text| bound("max", text))?;
    PasidRange::new(least, greatest)
        .map(Some)
        .ok_or_else(|| match max {
            Some(text) if min.is_none() => Refusal::invalid("max", text, format!("at least min, which is {least}")),
            _ => Refusal::invalid("min", least, format!("at most max, which is {greatest}")),
        })
        .map_err(Failed::from)
}

/// One bound of a range; 0 may be one, though no PASID is 0.
fn bound(field: &str, text: &str) -> Result<u32, Failed> {
    number(field, text, A_BOUND).and_then(|number| match PasidRange::ALL.contains(number) {
        true => Ok(number),
        false => Err(Refusal::invalid(field, text, A_BOUND).into()),
    })
}

/// What a new set shall be.
pub(super) fn set_request(wanted: &SetArguments) -> Result<SetRequest, Failed> {
    Ok(SetRequest {
        quota: wanted.quota.as_deref().map(quota).transpose()?,
        range: wanted.range.as_deref().map(|text| parse("range", text)).transpose()?,
        domain: wanted.domain.as_deref().map_or(Ok(Domain::Global), |text| parse("domain", text))?,
        label: wanted.label.clone().unwrap_or_default(),
        cgroup: wanted.cgroup.as_deref().map(cgroup).transpose()?,
        iommufd: wanted.iommufd,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_field<T: std::fmt::Debug>(outcome: Result<T, Failed>) -> String {
        match outcome.unwrap_err().refusal() {
            Some(Refusal::InvalidArgument { field, .. }) => field.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_base_0_and_bounded() {
        assert_eq!(count("0x10").unwrap(), 16);
        assert_eq!(pasid("1048575").unwrap(), Pasid::LAST);
        for bad in ["", "0", "-1", "+1", "1.0", "4294967296", "99999999999999999999", "ten"] {
            assert_eq!(refused_field(count(bad)), "count", "{bad:?}");
        }
        for bad in ["0", "1048576", "-1", ""] {
            assert_eq!(refused_field(pasid(bad)), "pasid", "{bad:?}");
        }
        assert_eq!(refused_field(set("one")), "set");
    }

    #[test]
    fn one_bound_leaves_the_other_open() {
        let bounds = |min, max| range(min, max).unwrap().map(|range| (range.min(), range.max()));
        assert_eq!(bounds(None, None), None);
        assert_eq!(bounds(Some("5"), None), Some((5, 0xF_FFFF)));
        assert_eq!(bounds(None, Some("5")), Some((1, 5)));
        assert_eq!(bounds(Some("5"), Some("5")), Some((5, 5)));
        assert_eq!(refused_field(range(Some("6"), Some("5"))), "min");
        assert_eq!(refused_field(range(Some("1048576"), None)), "min");
        assert_eq!(refused_field(range(None, Some("x"))), "max");
    }

    #[test]
    fn a_limit_is_a_number_or_one_of_two_words() {
        for good in ["0", "0x10", " 5 ", "max", "policy"] {
            assert!(check_max(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-1", "1 2", "maximum", "1k"] {
            assert_eq!(refused_field(check_max(bad)), "max", "{bad:?}");
        }
    }
}
