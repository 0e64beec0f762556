//! What the service leans on: cgroups, the bus, polkit, FUSE and CUSE, its own socket and policy.

use super::{Finding, Host};
use crate::proto::BUS_NAME;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    vec![cgroups(host), bus(host), polkit(host), fuse(host), cuse(host), service(host), policy(host)]
}

/// Source: proc_pid_mountinfo(5): the type is the first word after the separator.
fn cgroups(host: &Host) -> Finding {
    let id = "cgroups";
    let mounts = host.text("/proc/self/mountinfo").or_else(|| host.text("/proc/1/mountinfo")).unwrap_or_default();
    let of_type = |kind: &str| {
        let line = mounts.lines().find(|line| {
            line.split_once(" - ").is_some_and(|(_, after)| after.split_whitespace().next() == Some(kind))
        })?;
        line.split_whitespace().nth(4).map(str::to_owned)
    };
    let pure = "boot with\n    systemd.unified_cgroup_hierarchy=1\nor mount cgroup2 anywhere and name it with ioasidd --cgroup-root";
    match (of_type("cgroup2"), of_type("cgroup")) {
        (Some(path), None) => Finding::ok(id, format!("cgroup2 at {path}")),
        (Some(path), Some(_)) => Finding::note(id, format!("hybrid: cgroup2 at {path}, beside cgroup v1"))
            .mend("limits go by the cgroup2 path of a process (`0::` in /proc/PID/cgroup), whatever v1 says"),
        (None, Some(_)) => Finding::problem(id, "cgroup v1 alone: there is nothing to charge").mend(pure),
        (None, None) => Finding::problem(id, "no cgroup hierarchy is mounted").mend(pure),
    }
}

fn bus(host: &Host) -> Finding {
    if host.exists("/run/dbus/system_bus_socket") {
        return Finding::ok("bus", "the system bus is there");
    }
    Finding::note("bus", format!("there is no system bus: {BUS_NAME} and polkit are out of reach"))
        .mend("ioasid.sock serves everything without it; start ioasidd with --bus none")
}

fn polkit(host: &Host) -> Finding {
    let id = "polkit";
    if !host.exists("/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service") {
        return Finding::note(id, "no polkit: what it would be asked only administrators may do");
    }
    let actions = format!("/usr/share/polkit-1/actions/{BUS_NAME}.policy");
    if !host.exists(&actions) {
        return Finding::warning(id, format!("polkit does not know the actions of {BUS_NAME}"))
            .mend(format!("install {actions}"));
    }
    Finding::ok(id, format!("polkit, with the actions of {BUS_NAME}"))
}

fn fuse(host: &Host) -> Finding {
    if host.exists("/dev/fuse") {
        return Finding::ok("fuse", "/dev/fuse, for /run/ioasidd/cgroup");
    }
    Finding::note("fuse", "no /dev/fuse: there will be no files in /run/ioasidd/cgroup")
        .mend("modprobe fuse, or start ioasidd with --cgroup-fs none")
}

fn cuse(host: &Host) -> Finding {
    let id = "cuse";
    if host.exists("/dev/cuse") {
        return Finding::ok(id, "/dev/cuse, for /dev/ioasid");
    }
    let release = host.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let module = ["ko", "ko.xz", "ko.zst", "ko.gz"]
        .iter()
        .any(|end| host.exists(&format!("/lib/modules/{release}/kernel/fs/fuse/cuse.{end}")));
    if module {
        return Finding::note(id, "CUSE is not loaded, so there is no /dev/ioasid")
            .mend("load it now and at each boot\n    echo cuse > /etc/modules-load.d/ioasid.conf && modprobe cuse");
    }
    Finding::note(id, "this kernel has no CUSE, so there is no /dev/ioasid")
        .mend("programs written for the RFC's device take a kernel with CONFIG_CUSE")
}

fn service(host: &Host) -> Finding {
    let id = "service";
    if host.exists("/run/ioasidd/ioasid.sock") {
        return Finding::ok(id, "ioasid.sock is there");
    }
    Finding::warning(id, "the service does not run: there is no /run/ioasidd/ioasid.sock")
        .mend("systemctl enable --now ioasidd")
}

fn policy(host: &Host) -> Finding {
    let in_directory = |directory: &str| {
        let names = host.names(directory).into_iter().filter(|name| name.ends_with(".toml"));
        names.map(|name| format!("{directory}/{name}")).collect::<Vec<_>>()
    };
    let mut files = in_directory("/etc/ioasidd/policy.d");
    files.extend(in_directory("/usr/lib/ioasidd/policy.d"));
    if host.exists("/etc/ioasidd/policy.toml") {
        files.insert(0, "/etc/ioasidd/policy.toml".to_owned());
    }
    policy_from(&files)
}

/// What a policy read from these files means.
pub fn policy_from(files: &[String]) -> Finding {
    let id = "policy";
    if files.is_empty() {
        return Finding::warning(id, "there is no policy, so every set is refused").mend(
            "begin /etc/ioasidd/policy.toml with\n    version = 1\n    [[rule]]\n    name = \"root\"\n    cgroup = \"/**\"\n    users = [\"root\"]\n    action = \"allow\"",
        );
    }
    Finding::ok(id, files.join(", "))
}
