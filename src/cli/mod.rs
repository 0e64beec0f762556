//! ioasidctl: arguments, commands, rendering.
//!
//! Lives here: what turns words of a command line into calls of the [`client`](crate::client), and replies into JSON
//! or text. Not here: what a call means. One file a group of verbs; `arguments` has the shape of the command line,
//! `values` the meaning of its words, `outcome` the exit status and what is printed where.

mod admin;
mod arguments;
mod bench;
mod cgroups;
mod completions;
mod context;
mod doctor;
mod events;
mod handover;
mod holder;
mod launch;
mod libvirt_hook;
mod map;
mod outcome;
mod policies;
mod sets;
mod status;
mod table;
mod top;
mod values;

use arguments::{Arguments, Verb};
use clap::Parser;
use context::Context;
use outcome::Outcome;
use std::process::ExitCode;

/// `ioasidctl`: 0 done, 1 refused, 2 wrong usage, 3 service not reachable, 4 fault; 126 and 127 where CMD does not run.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let context = Context::new(arguments.socket, json);
    match run(&context, arguments.verb) {
        Ok(status) => status,
        Err(failed) => failed.report(json),
    }
}

fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Status => status::status(context),
        Verb::Sets { cgroup } => sets::sets(context, cgroup.as_deref()),
        Verb::Show { set } => sets::show(context, &set),
        Verb::Exec(wanted) => sets::exec(context, &wanted),
        Verb::Open { set, command } => sets::open(context, &set, &command),
        Verb::Alloc { fd, count, min, max } => holder::alloc(context, &fd, &count, min.as_deref(), max.as_deref()),
        Verb::Free { fd, pasids } => holder::free(context, &fd, &pasids),
        Verb::Info { fd } => holder::info(context, &fd),
        Verb::Alias { fd, deed } => holder::alias(context, &fd, &deed),
        Verb::SetQuota { fd, quota } => holder::set_quota(context, &fd, &quota),
        Verb::Trim { fd } => holder::trim(context, &fd),
        Verb::Watch { fd } => events::watch(context, &fd),
        Verb::Identify { fd } => holder::identify(context, &fd),
        Verb::Verify { fd, pasid } => holder::verify(context, &fd, &pasid),
        Verb::Hold { fd, pasid, command } => holder::hold(&fd, &pasid, &command),
        Verb::Receive { from, peer_uid, command } => handover::receive(&from, peer_uid.as_deref(), &command),
        Verb::Send { fd, to, peer_uid } => handover::send(context, &fd, &to, peer_uid.as_deref()),
        Verb::Cgroup { path, all } => cgroups::cgroup(context, path.as_deref(), all),
        Verb::SetMax { cgroup, max, persist } => admin::set_max(context, &cgroup, &max, persist),
        Verb::ResetPeak { cgroup } => admin::reset_peak(context, &cgroup),
        Verb::Recharge { set, cgroup } => admin::recharge(context, &set, &cgroup),
        Verb::Revoke { set, reason } => admin::revoke(context, &set, reason.as_deref()),
        Verb::Policy { deed } => policies::policy(context, &deed),
        Verb::Map { domain, svg } => map::map(context, domain.as_deref(), svg.as_deref()),
        Verb::Bench { answer: true, .. } => bench::answer(),
        Verb::Bench { rounds, .. } => bench::bench(context, &rounds),
        Verb::Top => top::top(context),
        Verb::Doctor { root } => doctor::doctor(context, root),
        Verb::Events { follow } => events::events(context, follow),
        Verb::LibvirtHook { name, operation, more: _ } => libvirt_hook::hook(context, &name, &operation),
        Verb::LibvirtKeeper { state, driver } => libvirt_hook::keep(&state, &driver),
        Verb::Completions { shell } => completions::completions(shell),
    }
}
