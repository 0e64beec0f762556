//! A domain's XML, as far as sets are concerned.

use crate::model::Refusal;

/// The namespace of our element in `<metadata>`.
const NAMESPACE: &str = "https://ioasid.org/xmlns/libvirt/domain/1";

/// What the XML says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Domain {
    /// `qemu` or `lxc`, as cgroups are called.
    pub driver: String,
    /// Its number while it runs.
    pub id: Option<u64>,
    /// The set that it asks for.
    pub set: Option<Wanted>,
}

/// `<ioasid:set quota="…" label="…"/>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The most ids.
    pub quota: Option<u32>,
    /// A word for people.
    pub label: Option<String>,
}

impl Domain {
    /// Reads it. Refused where it is no domain, or asks for a set in words that mean nothing.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let malformed = |error: roxmltree::Error| Refusal::invalid("domain", error, "the XML of a libvirt domain");
        let document = roxmltree::Document::parse(text).map_err(malformed)?;
        let root = document.root_element();
        if root.tag_name().name() != "domain" {
            return Err(Refusal::invalid("domain", root.tag_name().name(), "the XML of a libvirt domain"));
        }
        let driver = if root.attribute("type") == Some("lxc") { "lxc" } else { "qemu" };
        let id = root.attribute("id").and_then(|id| id.parse().ok());
        let metadata = root.children().find(|node| node.has_tag_name("metadata"));
        let ours = metadata.iter().flat_map(roxmltree::Node::children).filter(roxmltree::Node::is_element);
        let mut ours = ours.filter(|node| node.tag_name().namespace() == Some(NAMESPACE));
        let set = ours.next().map(wanted).transpose()?;
        if let Some(second) = ours.next() {
            let name = second.tag_name().name();
            return Err(Refusal::invalid("metadata", format!("a second element, {name}"), "one ioasid:set"));
        }
        Ok(Self { driver: driver.to_owned(), id, set })
    }
}

fn wanted(node: roxmltree::Node<'_, '_>) -> Result<Wanted, Refusal> {
    if node.tag_name().name() != "set" {
        return Err(Refusal::invalid("metadata", node.tag_name().name(), "an element ioasid:set"));
    }
    let mut wanted = Wanted::default();
    for attribute in node.attributes() {
        let value = attribute.value();
        match attribute.name() {
            "quota" => {
                let quota = value.parse().map_err(|_| Refusal::invalid("quota", value, "a number of ids"))?;
                wanted.quota = Some(quota);
            }
            "label" => wanted.label = Some(value.to_owned()),
            other => return Err(Refusal::invalid("ioasid:set", other, "the attributes quota and label")),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(metadata: &str) -> Result<Domain, Refusal> {
        Domain::parse(&format!(
            "<domain type='kvm' id='7'><name>g</name><metadata>{metadata}</metadata><memory>1</memory></domain>"
        ))
    }

    const X: &str = "xmlns:x='https://ioasid.org/xmlns/libvirt/domain/1'";

    #[test]
    fn the_set_is_found_by_its_namespace_whatever_the_prefix() {
        let other = "<y:set xmlns:y='https://example.org/' quota='5'/>";
        let domain = parse(&format!("{other}<x:set {X} quota='64' label='gpu &amp; co'/>")).unwrap();
        assert_eq!((domain.driver.as_str(), domain.id), ("qemu", Some(7)));
        assert_eq!(domain.set, Some(Wanted { quota: Some(64), label: Some("gpu & co".into()) }));
        assert_eq!(parse(other).unwrap().set, None);
        assert_eq!(parse(&format!("<x:set {X}/>")).unwrap().set, Some(Wanted::default()));
        let lxc = Domain::parse("<domain type='lxc'><name>c</name></domain>").unwrap();
        assert_eq!((lxc.driver.as_str(), lxc.id, lxc.set), ("lxc", None, None));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (metadata, field, value) in [
            (format!("<x:set {X} quota='many'/>"), "quota", "many"),
            (format!("<x:set {X} quota='-1'/>"), "quota", "-1"),
            (format!("<x:set {X} pid='1'/>"), "ioasid:set", "pid"),
            (format!("<x:sets {X}/>"), "metadata", "sets"),
            (format!("<x:set {X}/><x:set {X}/>"), "metadata", "a second element, set"),
        ] {
            let expected = (field.to_owned(), value.to_owned());
            match parse(&metadata).unwrap_err() {
                Refusal::InvalidArgument { field, value, .. } => assert_eq!((field, value), expected),
                other => panic!("{other}"),
            }
        }
        for text in ["", "<network/>", "<domain>", "<!DOCTYPE a [<!ENTITY b 'c'>]><domain>&b;</domain>"] {
            assert!(Domain::parse(text).is_err(), "{text}");
        }
    }
}
