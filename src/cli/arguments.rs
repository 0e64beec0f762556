//! The shape of the command line. Values are taken as text: what they mean is for `values` and the service to say, for
//! a bad value is a refusal and not a wrong usage.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ioasidctl exec --quota 16 -- sh        a shell that holds a set
  ioasidctl alloc -n 4                   in it: four ids, one a line
  ioasidctl cgroup /machine.slice        limits and use, level by level
  ioasidctl set-max /machine.slice 512   an administrator's limit

Exit status: 0 done, 1 refused, 2 wrong usage, 3 service not reachable, 4 fault.
A set FD is taken from --fd, else from IOASID_SET_FD, else from LISTEN_FDS (name ioasid).";

/// Where the help of a verb has what all have: between its own options and `--help`, which has 999.
const AFTER_ITS_OWN: usize = 900;

/// PASIDs on this host: take them, pass them on, see who has how many.
#[derive(Debug, Parser)]
#[command(name = "ioasidctl", version, about, after_help = EXAMPLES, max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Where the service listens [default: $IOASID_SOCKET, else /run/ioasidd/ioasid.sock, else where there is none
    /// $XDG_RUNTIME_DIR/ioasidd/ioasid.sock]
    #[arg(long, global = true, value_name = "PATH", display_order = AFTER_ITS_OWN)]
    pub socket: Option<PathBuf>,

    /// JSON alone on standard output, refusals too
    #[arg(long, global = true, display_order = AFTER_ITS_OWN)]
    pub json: bool,

    #[command(subcommand)]
    pub verb: Verb,
}

/// Which set FD.
#[derive(Debug, Default, Args)]
pub(super) struct FdArgument {
    /// The number of the set FD
    #[arg(long = "fd", value_name = "N", global = true, allow_negative_numbers = true, display_order = AFTER_ITS_OWN - 1)]
    pub number: Option<String>,
}

/// CMD and its arguments.
#[derive(Debug, Args)]
pub(super) struct CommandArgument {
    /// The command, after --
    #[arg(last = true, required = true, value_name = "CMD")]
    pub words: Vec<OsString>,
}

/// What a new set shall be.
#[derive(Debug, Args)]
pub(super) struct SetArguments {
    /// The most ids it may lease [default: the rule's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub quota: Option<String>,
    /// Ids from this range only, both ends included
    #[arg(long, value_name = "A-B", allow_negative_numbers = true)]
    pub range: Option<String>,
    /// The number space: global or pci:DDDD:BB:DD.F [default: global]
    #[arg(long, value_name = "D")]
    pub domain: Option<String>,
    /// Charge this cgroup instead of the own one
    #[arg(long, value_name = "C")]
    pub cgroup: Option<String>,
    /// A word for people
    #[arg(long, value_name = "L")]
    pub label: Option<String>,
    /// An iommufd too, as descriptor 4 with the name iommufd
    #[arg(long)]
    pub iommufd: bool,
    #[command(flatten)]
    pub command: CommandArgument,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The service at a glance: number spaces, and what is enforced on this host
    Status,
    /// The sets
    Sets {
        /// Only those charged to this cgroup and below
        #[arg(long, value_name = "C")]
        cgroup: Option<String>,
    },
    /// One set; with its ids for who may see them
    Show {
        /// Its number, as `sets` shows it
        #[arg(value_name = "SET", allow_negative_numbers = true)]
        set: String,
    },
    /// Run CMD with a new set, its FD as descriptor 3
    Exec(SetArguments),
    /// Run CMD with another FD of a set that you own
    Open {
        /// Its number, as `sets` shows it
        #[arg(value_name = "SET", allow_negative_numbers = true)]
        set: String,
        #[command(flatten)]
        command: CommandArgument,
    },
    /// Allocate ids: all of them or none
    Alloc {
        #[command(flatten)]
        fd: FdArgument,
        /// How many
        #[arg(short = 'n', value_name = "N", default_value = "1", allow_negative_numbers = true)]
        count: String,
        /// None below this
        #[arg(long, value_name = "A", allow_negative_numbers = true)]
        min: Option<String>,
        /// None above this
        #[arg(long, value_name = "B", allow_negative_numbers = true)]
        max: Option<String>,
    },
    /// Give ids back; again is no error
    Free {
        #[command(flatten)]
        fd: FdArgument,
        /// The ids
        #[arg(value_name = "PASID", required = true, allow_negative_numbers = true)]
        pasids: Vec<String>,
    },
    /// The set held, with its ids
    Info {
        #[command(flatten)]
        fd: FdArgument,
    },
    /// Other names of ids in the set held: virtual PASIDs
    Alias {
        #[command(flatten)]
        fd: FdArgument,
        #[command(subcommand)]
        deed: AliasVerb,
    },
    /// Change the quota of the set held
    SetQuota {
        #[command(flatten)]
        fd: FdArgument,
        /// The most ids it may lease
        #[arg(value_name = "N", allow_negative_numbers = true)]
        quota: String,
    },
    /// Give unused leases back; prints how many
    Trim {
        #[command(flatten)]
        fd: FdArgument,
    },
    /// Follow what happens to the set held, one event a line
    Watch {
        #[command(flatten)]
        fd: FdArgument,
    },
    /// Which set is held?
    Identify {
        #[command(flatten)]
        fd: FdArgument,
    },
    /// Is the id leased to the set held? Exit status 1 where it is not
    Verify {
        #[command(flatten)]
        fd: FdArgument,
        /// The id
        #[arg(value_name = "PASID", allow_negative_numbers = true)]
        pasid: String,
    },
    /// Run CMD while holding a reference on an id
    Hold {
        #[command(flatten)]
        fd: FdArgument,
        /// The id
        #[arg(value_name = "PASID", allow_negative_numbers = true)]
        pasid: String,
        #[command(flatten)]
        command: CommandArgument,
    },
    /// Wait for a set FD on an AF_UNIX socket, then run CMD with it
    Receive {
        /// Where to listen; the path appears when it does, and goes when the set is here
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// Take it from this user only
        #[arg(long, value_name = "U", allow_negative_numbers = true)]
        peer_uid: Option<String>,
        #[command(flatten)]
        command: CommandArgument,
    },
    /// Pass the set FD held to who waits with `receive`
    Send {
        #[command(flatten)]
        fd: FdArgument,
        /// Where it listens
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
        /// Give it to this user only
        #[arg(long, value_name = "U", allow_negative_numbers = true)]
        peer_uid: Option<String>,
    },
    /// The tree of cgroups: limits, use, events, and what is behind each limit
    Cgroup {
        /// Where to begin [default: the root]
        #[arg(value_name = "PATH")]
        path: Option<String>,
        /// Those without a limit or a charge too
        #[arg(long)]
        all: bool,
    },
    /// Set a cgroup's limit
    SetMax {
        /// Its path from the cgroup2 root, such as /machine.slice
        #[arg(value_name = "CGROUP")]
        cgroup: String,
        /// A number of ids, `max`, or `policy` for what the policy says
        #[arg(value_name = "N|max|policy", allow_negative_numbers = true)]
        max: String,
        /// Write it to /etc/ioasidd/policy.d/90-set-max.toml too
        #[arg(long)]
        persist: bool,
    },
    /// Make a cgroup's current use its peak
    ResetPeak {
        /// Its path from the cgroup2 root, such as /machine.slice
        #[arg(value_name = "CGROUP")]
        cgroup: String,
    },
    /// Move a set's charge to another cgroup
    Recharge {
        /// Its number, as `sets` shows it
        #[arg(value_name = "SET", allow_negative_numbers = true)]
        set: String,
        /// The cgroup to charge, by its path from the cgroup2 root
        #[arg(value_name = "CGROUP")]
        cgroup: String,
    },
    /// End a set, whoever holds it
    Revoke {
        /// Its number, as `sets` shows it
        #[arg(value_name = "SET", allow_negative_numbers = true)]
        set: String,
        /// Why, for those who are refused from then on
        #[arg(long, value_name = "R")]
        reason: Option<String>,
    },
    /// The policy: check files, explain a decision, read it again
    Policy {
        #[command(subcommand)]
        deed: PolicyVerb,
    },
    /// A picture of a number space: who has which ids
    Map {
        /// The number space [default: global]
        #[arg(long, value_name = "D")]
        domain: Option<String>,
        /// Draw it into this file instead of the terminal
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Look at this host: what is missing for PASIDs, what goes past the service, how to mend it
    Doctor {
        /// Look at a recording of another host instead
        #[arg(long, value_name = "DIR", hide = true)]
        root: Option<PathBuf>,
    },
    /// The service live: cgroups and sets, what they have, want and are refused
    Top,
    /// Measure this host with the service that runs: each figure beside its physical limit
    Bench {
        /// How many rounds; each measures every case once
        #[arg(long, value_name = "N", default_value = "15", allow_negative_numbers = true)]
        rounds: String,
        /// Be the process that round trips are measured against
        #[arg(long, hide = true)]
        answer: bool,
    },
    /// What happened lately, one event a line
    Events {
        /// Go on
        #[arg(long)]
        follow: bool,
    },
    /// What libvirt runs as a domain comes and goes; the domain's XML on standard input
    ///
    /// For /etc/libvirt/hooks/qemu.d and lxc.d. See org.ioasid1(5), "LIBVIRT".
    LibvirtHook {
        /// The domain
        #[arg(value_name = "NAME")]
        name: String,
        /// prepare, start, started, stopped, release, …
        #[arg(value_name = "OPERATION")]
        operation: String,
        /// What else libvirt says
        #[arg(value_name = "MORE", trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Keeps a domain's set; started by libvirt-hook
    #[command(hide = true)]
    LibvirtKeeper {
        #[arg(value_name = "STATE")]
        state: PathBuf,
        #[arg(value_name = "DRIVER")]
        driver: String,
    },
    /// What a shell completes words of this command line with, for its start-up files
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasVerb {
    /// Give an id another name
    Add {
        /// The id
        #[arg(value_name = "PASID", allow_negative_numbers = true)]
        pasid: String,
        /// Its other name, a number such as a guest's own PASID
        #[arg(value_name = "VPASID", allow_negative_numbers = true)]
        vpasid: String,
    },
    /// The id behind a name
    Find {
        /// The other name
        #[arg(value_name = "VPASID", allow_negative_numbers = true)]
        vpasid: String,
    },
    /// Forget a name
    Del {
        /// The other name
        #[arg(value_name = "VPASID", allow_negative_numbers = true)]
        vpasid: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Check files, each on its own; without one, those that the service reads
    Check {
        /// The files
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// What the policy says to a user in a cgroup, and the lines behind it
    Explain {
        /// By name or number
        #[arg(long, value_name = "U", allow_negative_numbers = true)]
        user: String,
        /// The cgroup that asks
        #[arg(long, value_name = "C")]
        cgroup: String,
        /// The quota it asks for
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        quota: Option<String>,
        /// Read this file alone and ask nobody
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Have the service read the policy again; a bad one changes nothing
    Reload,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn shape(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_manual_page_has_every_verb() {
        let page = include_str!("../../packaging/man/ioasidctl.1");
        let verbs = Arguments::command();
        for verb in verbs.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            let name = verb.get_name();
            let has = |prefix: &str| {
                page.lines()
                    .any(|line| line.strip_prefix(prefix).is_some_and(|rest| rest.split(' ').next() == Some(name)))
            };
            assert!(has(".It Cm ") || has(".Cm "), "{name}");
        }
    }

    #[test]
    fn the_manual_page_has_every_option() {
        let page = include_str!("../../packaging/man/ioasidctl.1");
        let words: Vec<&str> = page.split_whitespace().collect();
        let has =
            |option: &str| words.windows(2).any(|pair| pair[0].trim_start_matches('.') == "Fl" && pair[1] == option);
        let mut verbs = vec![Arguments::command()];
        while let Some(verb) = verbs.pop() {
            verbs.extend(verb.get_subcommands().filter(|below| !below.is_hide_set()).cloned());
            let options = verb.get_arguments().filter(|option| !option.is_hide_set());
            for option in options.filter_map(|option| option.get_long()) {
                assert!(has(&format!("-{option}")), "{} --{option}", verb.get_name());
            }
        }
    }

    #[test]
    fn every_argument_says_what_it_is() {
        let mut verbs = vec![Arguments::command()];
        while let Some(verb) = verbs.pop() {
            verbs.extend(verb.get_subcommands().filter(|below| !below.is_hide_set()).cloned());
            for argument in verb.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", verb.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn a_bad_value_has_a_good_shape() {
        for line in [
            "ioasidctl alloc -n abc",
            "ioasidctl alloc -n -1 --min x --max -7",
            "ioasidctl free 0 -5 zero --fd -1",
            "ioasidctl set-max /a -5 --persist",
            "ioasidctl exec --quota -1 --range 9-3 --domain moon -- true",
            "ioasidctl alias add x y --fd 3",
            "ioasidctl alias --fd 3 find -1",
            "ioasidctl policy explain --user -1 --cgroup x --quota many",
            "ioasidctl --json show -1",
            "ioasidctl show x --json --socket /nowhere",
        ] {
            shape(line).unwrap();
        }
    }

    #[test]
    fn a_bad_shape_is_a_wrong_usage() {
        for line in [
            "ioasidctl",
            "ioasidctl allocate",
            "ioasidctl exec",
            "ioasidctl exec --qouta 5 -- true",
            "ioasidctl exec true",
            "ioasidctl free",
            "ioasidctl set-max /a",
            "ioasidctl alias",
            "ioasidctl status extra",
            "ioasidctl receive -- true",
            "ioasidctl policy explain --user root",
        ] {
            assert_eq!(shape(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_follows_two_dashes_is_the_commands() {
        let Verb::Exec(wanted) = shape("ioasidctl exec --quota 5 -- sh -c --json").unwrap().verb else {
            panic!("not exec")
        };
        assert_eq!(wanted.command.words, ["sh", "-c", "--json"]);
    }
}
