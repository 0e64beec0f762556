//! The format for editors: JSON Schema, as `policy/schema.json` ships it.

use super::check::VERSION;
use super::rule::{DEFAULT_QUOTA, DEFAULT_SETS_PER_CGROUP};
use super::settings::{Guard, Lease};
use super::value::IDS;
use crate::model::MAX_BITS;
use serde_json::{Value, json};

/// The JSON Schema of a policy file, draft 2020-12. It takes all that [`super::check()`] takes; what the checker knows
/// beyond it are accounts, and how values stand to each other.
pub fn schema() -> Value {
    let (guard, lease) = (Guard::default(), Lease::default());
    let count = |description: &str, default: u32| json!({"description": description, "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": default});
    let ids = |description: &str, default: Option<u32>| {
        let mut ids = json!({"description": description, "type": "integer", "minimum": 1, "maximum": IDS});
        if let (Some(ids), Some(default)) = (ids.as_object_mut(), default) {
            ids.insert("default".to_owned(), default.into());
        }
        ids
    };
    let path = |description: &str| json!({"description": description, "$ref": "#/$defs/path"});
    let space = table(
        "The number space.",
        json!({
            "bits": {
                "description": "How wide PASIDs are; auto: the smallest Max PASID Width of the devices that have one, else 20.",
                "oneOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_BITS}],
                "default": "auto",
            },
            "reserved": {
                "description": "Inclusive ranges that are never handed out. Unset: 0-1023 where there are 12 bits or more.",
                "type": "array",
                "items": {"$ref": "#/$defs/range"},
            },
            "quarantine": {
                "description": "How long a returned id rests before another set can get it.",
                "type": "string",
                "pattern": r"^\s*(0|([0-9]+\s*(us|ms|s|sec|m|min|h)\s*)+)\s*$",
                "default": "1s",
            },
            "profile": {
                "description": "What an unset max means: no limit, or nothing.",
                "enum": ["cgroup-v2", "rfc-v4"],
                "default": "cgroup-v2",
            },
        }),
        &[],
    );
    let bus = table(
        "The bus.",
        json!({"trust_pid": {
            "description": "Where the bus gives no process descriptor: serve other users than root on its pid alone?",
            "type": "boolean",
            "default": false,
        }}),
        &[],
    );
    let guard = table(
        "What one uid may take of the service itself; uid 0 is exempt.",
        json!({
            "sets": count("Sets at a time.", guard.sets),
            "sessions": count("Sessions at a time.", guard.sessions),
            "requests_per_second": count("Requests in a second.", guard.requests_per_second),
        }),
        &[],
    );
    let batch = ids("Ids that a mapped set leases ahead, at most.", Some(lease.batch));
    let port = json!({"description": "The loopback port.", "type": "integer", "minimum": 1, "maximum": u16::MAX});
    let cgroup = table(
        "The ioasids.max of cgroups. The most specific path wins, of two as specific the later.",
        json!({
            "path": path("Which cgroups."),
            "max": {
                "description": "How many ids may be charged; 0 blocks new ones.",
                "oneOf": [{"const": "max"}, {"type": "integer", "minimum": 0}],
            },
        }),
        &["path", "max"],
    );
    let quota = table(
        "How many ids a set may lease.",
        json!({
            "default": ids("Where the request does not say.", Some(DEFAULT_QUOTA)),
            "max": ids("The most a request may ask for. Unset: all that the space has.", None),
        }),
        &[],
    );
    let mut rule = table(
        "Who may get a set. The first rule that matches decides; where none does, the answer is no.",
        json!({
            "name": {"description": "What refusals call it; unique.", "type": "string", "minLength": 1},
            "cgroup": path("The requester's cgroup. Unset: any."),
            "users": accounts("Users by name or number; \"*\" is anybody."),
            "groups": accounts("Groups by name or number, primary or not; \"*\" is anybody."),
            "action": {"description": "What becomes of a request that keeps the bounds.", "enum": ["allow", "deny", "polkit"]},
            "quota": quota,
            "sets_per_cgroup": count("Sets at a time, counted on the cgroup that is charged.", DEFAULT_SETS_PER_CGROUP),
            "range": {"description": "Where ids come from. Unset: all that is not reserved.", "$ref": "#/$defs/range"},
            "domains": {
                "description": "Number spaces. Unset: global.",
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "pattern": r"^(global|\*|pci:[0-9a-fA-F:.*?\[\]!-]+)$"},
                "default": ["global"],
            },
            "on_behalf_of": {
                "description": "Cgroups it may charge other than the requester's own.",
                "type": "array",
                "items": {"$ref": "#/$defs/path"},
            },
        }),
        &["name", "action"],
    );
    if let Some(rule) = rule.as_object_mut() {
        let one_named = |key: &str| json!({"required": [key], "properties": {key: {"minItems": 1}}});
        rule.insert("anyOf".to_owned(), json!([one_named("users"), one_named("groups")]));
    }
    let mut top = table(
        "Who may get PASIDs from ioasidd, and how many.",
        json!({
            "version": {"description": "The version of this format.", "const": VERSION},
            "space": space,
            "bus": bus,
            "guard": guard,
            "lease": table("Leasing ahead.", json!({"batch": batch}), &[]),
            "metrics": table("Metrics, beside the socket.", json!({"port": port}), &[]),
            "cgroup": {"type": "array", "items": cgroup},
            "rule": {"type": "array", "items": rule},
        }),
        &["version"],
    );
    if let Some(top) = top.as_object_mut() {
        top.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        top.insert("title".to_owned(), "ioasidd policy".into());
        top.insert("$defs".to_owned(), definitions());
    }
    top
}

fn definitions() -> Value {
    json!({
        "range": {
            "description": "Both ends are included; a single number is a range too.",
            "type": "string",
            "pattern": r"^\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*(-\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*)?$",
        },
        "path": {
            "description": "From the cgroup2 root. * is any name, ** any number of levels; within a name * ? [a-z] are globs, and [*] [?] [[] stand for the character itself. A backslash is a backslash.",
            "type": "string",
            "pattern": "^/",
        },
    })
}

fn table(description: &str, properties: Value, required: &[&str]) -> Value {
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn accounts(description: &str) -> Value {
    json!({"description": description, "type": "array", "items": {"type": "string", "minLength": 1}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::keys;

    #[test]
    fn describes_the_keys_that_are_read_and_no_others() {
        let schema = schema();
        for (at, keys) in [
            ("", keys::TOP),
            ("/properties/space", keys::SPACE),
            ("/properties/bus", keys::BUS),
            ("/properties/guard", keys::GUARD),
            ("/properties/lease", keys::LEASE),
            ("/properties/metrics", keys::METRICS),
            ("/properties/cgroup/items", keys::CGROUP),
            ("/properties/rule/items", keys::RULE),
            ("/properties/rule/items/properties/quota", keys::QUOTA),
        ] {
            let properties = schema.pointer(&format!("{at}/properties")).unwrap().as_object().unwrap();
            let mut described: Vec<_> = properties.keys().map(String::as_str).collect();
            let mut read = keys.to_vec();
            described.sort_unstable();
            read.sort_unstable();
            assert_eq!(described, read, "{at}");
        }
    }
}
