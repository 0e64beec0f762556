//! `org.freedesktop.DBus.Introspectable`, at every path that has others below it.
//!
//! zbus has one for each object, which tells all there is below it as well: megabytes where there are thousands of sets, at
//! each call, counted against nobody. These tell their own interfaces and the names below, as the specification has it.
//! The sets keep zbus's.

use super::Core;
use super::error::BusError;
use super::objects::Objects;
use super::service::Manager;
use crate::proto::{BUS_PATH, BUS_SET_PREFIX};
use std::fmt::Write;
use std::sync::Arc;
use zbus::fdo::Properties;
use zbus::message::Header;
use zbus::object_server::Interface;
use zbus::{Connection, interface};

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
"#;
/// What zbus answers at every object, and has nobody else describe. Source: the D-Bus specification, "Standard Interfaces".
const PEER: &str = r#"  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" direction="out"/>
    </method>
  </interface>
"#;

/// A path that has others below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Org,
    Manager,
    Sets,
}

impl Place {
    const ALL: [Self; 4] = [Self::Root, Self::Org, Self::Manager, Self::Sets];

    fn path(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Org => "/org",
            Self::Manager => BUS_PATH,
            Self::Sets => BUS_SET_PREFIX.trim_end_matches('/'),
        }
    }
}

/// What a path says of itself.
struct Introspection {
    core: Arc<Core>,
    place: Place,
}

/// Has every path above the sets tell its own, in place of zbus's telling.
pub(super) async fn serve(core: &Arc<Core>, connection: &Connection) -> zbus::Result<()> {
    let server = connection.object_server();
    for place in Place::ALL {
        server.at(place.path(), Stay).await?;
        server.remove_named(place.path(), Introspection::name()).await?;
        server.at(place.path(), Introspection { core: Arc::clone(core), place }).await?;
    }
    Ok(())
}

/// Has zbus keep a path where nothing else than standard interfaces is: without one it takes a path away, and all that is
/// below it, with the interface that is removed. It has no members, and nobody is told of it.
struct Stay;

#[interface(name = "org.ioasid1.Stay", introspection_docs = false)]
impl Stay {}

impl Introspection {
    fn interfaces(&self, text: &mut String) {
        self.introspect_to_writer(text, 2);
        text.push_str(PEER);
        Properties.introspect_to_writer(text, 2);
        match self.place {
            Place::Root => Objects::of_all(&self.core).introspect_to_writer(text, 2),
            Place::Manager => {
                Objects::of_sets(&self.core).introspect_to_writer(text, 2);
                Manager::new(Arc::clone(&self.core)).introspect_to_writer(text, 2);
            }
            Place::Org | Place::Sets => {}
        }
    }

    fn below(&self) -> Vec<String> {
        let one = |name: &str| vec![name.to_owned()];
        match self.place {
            Place::Root => one("org"),
            Place::Org => one("ioasid1"),
            Place::Manager => one("set"),
            Place::Sets => self.core.controller.sets().iter().map(|set| set.set.to_string()).collect(),
        }
    }
}

#[interface(name = "org.freedesktop.DBus.Introspectable", introspection_docs = false)]
impl Introspection {
    async fn introspect(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let told = self.core.answer_anybody(connection, &header, async |uid| {
            let mut text = HEAD.to_owned();
            self.interfaces(&mut text);
            let below = self.below();
            self.core.pay_for(uid, below.len());
            for name in below {
                // Names of paths: nothing in them is to be escaped.
                let _ = writeln!(text, "  <node name=\"{name}\"/>");
            }
            text.push_str("</node>\n");
            Ok(text)
        });
        told.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SetId;

    #[test]
    fn the_places_are_above_the_sets() {
        let above: Vec<String> = Place::ALL.map(|place| place.path().to_owned()).to_vec();
        assert_eq!(above, ["/", "/org", "/org/ioasid1", "/org/ioasid1/set"]);
        assert!(super::super::path_of(SetId(1)).unwrap().as_str().starts_with(Place::Sets.path()));
    }
}
