//! `org.freedesktop.DBus.Introspectable`, at every path that has others below it.
//!
//! zbus has one for each object, which tells all there is below it as well: megabytes where there are thousands of sets, at
//! each call, counted against nobody. These tell their own interfaces and the names below, as the specification has it.
//! The sets keep zbus's.

use super::Core;
use super::error::BusError;
use super::objects::Objects;
use super::service::Manager;
use super::set::SetObject;
use crate::model::{Failure, Fault, SetId};
use crate::proto::{BUS_PATH, BUS_SET_PREFIX};
use std::fmt::Write;
use std::sync::Arc;
use zbus::message::Header;
use zbus::object_server::Interface;
use zbus::{Connection, interface};

const NAME: &str = "org.freedesktop.DBus.Introspectable";
const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
"#;
/// What every object has. Source: the D-Bus specification, "Standard Interfaces".
const STANDARD: &str = r#"  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg type="v" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg type="a{sv}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
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

/// Puts the manager and all that tells of what there is on a bus where there is nothing yet.
pub(super) async fn serve_all(core: &Arc<Core>, connection: &Connection) -> Result<(), Failure> {
    let server = connection.object_server();
    let failed = |error: zbus::Error| Failure::from(Fault::from_error(&error).while_doing("put objects on the bus"));
    server.at(BUS_PATH, Manager::new(Arc::clone(core))).await.map_err(failed)?;
    // No set has this number. It makes the path above the sets, which stays.
    SetObject::serve(core, connection, SetId(0)).await?;
    for place in Place::ALL {
        server.at(place.path(), Stay).await.map_err(failed)?;
        let name = zbus::names::InterfaceName::from_static_str_unchecked(NAME);
        server.remove_named(place.path(), name).await.map_err(failed)?;
        server.at(place.path(), Introspection { core: Arc::clone(core), place }).await.map_err(failed)?;
    }
    SetObject::withdraw(connection, SetId(0)).await?;
    server.at(BUS_PATH, Objects::of_sets(core)).await.map_err(failed)?;
    // At the root too, where some clients look; signals come from the nearer one.
    server.at("/", Objects::of_all(core)).await.map_err(failed)?;
    Ok(())
}

/// Has zbus keep a path where nothing else than standard interfaces is: without one it takes a path away, and all that is
/// below it, with the interface that is removed. It has no members, and nobody is told of it.
struct Stay;

#[interface(name = "org.ioasid1.Stay", introspection_docs = false)]
impl Stay {}

impl Introspection {
    fn interfaces(&self, text: &mut String) {
        text.push_str(STANDARD);
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

    #[test]
    fn the_places_are_above_the_sets() {
        let above: Vec<String> = Place::ALL.map(|place| place.path().to_owned()).to_vec();
        assert_eq!(above, ["/", "/org", "/org/ioasid1", "/org/ioasid1/set"]);
        assert!(super::super::path_of(SetId(1)).unwrap().as_str().starts_with(Place::Sets.path()));
    }
}
