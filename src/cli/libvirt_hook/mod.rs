//! `libvirt-hook`: what libvirt runs as a domain comes and goes, for QEMU and LXC.
//!
//! At `prepare` the set that the domain's XML asks for is made and given to a [`keeper`], a small process of its own:
//! hooks end at once, libvirtd may be restarted, and the set has to stay. At `started` the set's charge moves to the
//! cgroup that libvirt made, at `release` the keeper ends and the set with it. What a hook says on standard error is
//! what `virsh` shows; a status other than 0 stops the start. Nothing is said on standard output, which libvirt would
//! take for XML.

mod domain;
mod keeper;
mod scope;
mod state;

use super::context::Context;
use super::outcome::{Failed, Outcome};
use crate::client::Service;
use crate::model::{CgroupPath, Refusal, SetRequest, is_printable};
use crate::proto::Recharge;
use crate::sys::cgroup::Root;
use domain::Domain;
use std::io::Read;
use std::process::ExitCode;

pub(super) use keeper::keep;

/// The longest domain XML that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Does what an operation asks for; those that ask for nothing succeed, so that a newer libvirt is no obstacle.
pub(super) fn hook(context: &Context, name: &str, operation: &str) -> Outcome {
    match operation {
        "prepare" => prepare(context, name)?,
        "started" => started(context, name)?,
        "release" => state::end(context.runtime_dir(), name, Domain::driver_of(&read_xml()?)?)?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn cgroups() -> Result<Root, Failed> {
    Root::find(None).map_err(|fault| Refusal::not_found(fault.to_string()).into())
}

fn read_xml() -> Result<String, Failed> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failed::fault("read the domain's XML", &error))?;
    Ok(text)
}

fn read_domain() -> Result<Domain, Failed> {
    Ok(Domain::parse(&read_xml()?)?)
}

fn prepare(context: &Context, name: &str) -> Result<(), Failed> {
    let domain = read_domain()?;
    // What an earlier start left behind, where libvirt or the host went down.
    state::end(context.runtime_dir(), name, &domain.driver)?;
    let Some(wanted) = &domain.set else { return Ok(()) };
    let label = wanted.label.clone().unwrap_or_else(|| printable(name));
    let cgroup = partition(&cgroups()?);
    let request = SetRequest { quota: wanted.quota, label, cgroup, ..SetRequest::default() };
    let (set, info) = context.service()?.create_set(request)?;
    keeper::start(context.runtime_dir(), name, &domain, &set, info.set)
}

fn started(context: &Context, name: &str) -> Result<(), Failed> {
    let domain = read_domain()?;
    if domain.set.is_none() {
        return Ok(());
    }
    let mut state = state::read(context.runtime_dir(), name, &domain.driver)?
        .ok_or_else(|| Refusal::not_found(format!("the keeper of domain {name}")))?;
    state.id = domain.id;
    let root = cgroups()?;
    let id = domain.id.ok_or_else(|| Refusal::invalid("id", "", "the number of a running domain in its XML"))?;
    let cgroup = scope::find(&root, &domain.driver, id)
        .ok_or_else(|| Refusal::not_found(format!("the cgroup of {} domain {id} ({name})", domain.driver)))?;
    recharge(&mut context.service()?, state.set, &cgroup)?;
    state.write(context.runtime_dir(), name, &domain.driver)
}

fn recharge(service: &mut Service, set: u64, cgroup: &CgroupPath) -> Result<(), Failed> {
    service.call(&Recharge { set, cgroup: cgroup.as_str().to_owned() }, &[])?;
    Ok(())
}

/// Where libvirt will put the domain, as far as it is there already. `None`: nowhere yet; libvirtd's own is charged until
/// the domain runs.
fn partition(root: &Root) -> Option<CgroupPath> {
    ["/machine.slice", "/machine"].iter().filter_map(|path| path.parse().ok()).find(|path| root.id_of(path).is_ok())
}

/// A domain's name as a label: at most 64 bytes of printable text.
fn printable(name: &str) -> String {
    let mut label = String::new();
    for character in name.chars().filter(|character| is_printable(*character)) {
        if label.len() + character.len_utf8() > 64 {
            break;
        }
        label.push(character);
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_makes_a_label() {
        assert_eq!(printable("guest\n1"), "guest1");
        assert_eq!(printable(&"é".repeat(40)).len(), 64);
    }
}
