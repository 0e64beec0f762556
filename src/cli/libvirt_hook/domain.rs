//! A domain's XML, as far as sets are concerned.

use crate::model::Refusal;

/// The namespace of our element in `<metadata>`.
const NAMESPACE: &str = "https://ioasid.org/xmlns/libvirt/domain/1";

/// The longest tag in bytes, and the most declarations of namespaces. No domain comes near; the parser compares each
/// attribute of a tag, and each namespace in force, with all others.
const LONGEST_TAG: usize = 1 << 16;
const MOST_NAMESPACES: usize = 1000;
/// The most elements and texts.
const MOST_NODES: u32 = 1 << 20;

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
        check_size(text)?;
        let options = roxmltree::ParsingOptions { nodes_limit: MOST_NODES, ..roxmltree::ParsingOptions::default() };
        let document = roxmltree::Document::parse_with_options(text, options).map_err(malformed)?;
        let root = document.root_element();
        if root.tag_name().name() != "domain" {
            return Err(Refusal::invalid("domain", root.tag_name().name(), "the XML of a libvirt domain"));
        }
        let driver = driver(root);
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

    /// The driver alone, by the first tag: whatever else the XML says, and its metadata can be changed while a domain
    /// runs, is left unread.
    pub fn driver_of(text: &str) -> Result<&'static str, Refusal> {
        let tag = text.find("<domain").and_then(|start| text.get(start..)?.split('>').next());
        let tag = tag.filter(|tag| tag.len() <= LONGEST_TAG).unwrap_or_default();
        let alone = format!("{}/>", tag.trim_end_matches('/'));
        let document = roxmltree::Document::parse(&alone).map_err(malformed)?;
        Ok(driver(document.root_element()))
    }
}

fn malformed(error: roxmltree::Error) -> Refusal {
    Refusal::invalid("domain", error, "the XML of a libvirt domain")
}

fn driver(root: roxmltree::Node<'_, '_>) -> &'static str {
    if root.attribute("type") == Some("lxc") { "lxc" } else { "qemu" }
}

/// Refuses what would take the parser long.
fn check_size(text: &str) -> Result<(), Refusal> {
    let tags =
        text.split('<').filter(|tag| !tag.starts_with('!')).map(|tag| tag.split('>').next().unwrap_or(tag).len());
    let longest = tags.max().unwrap_or(0);
    if longest > LONGEST_TAG {
        let expected = format!("the XML of a libvirt domain, with no tag longer than {LONGEST_TAG} bytes");
        return Err(Refusal::invalid("domain", format!("a tag of {longest} bytes"), expected));
    }
    let namespaces = text.matches("xmlns").count();
    if namespaces > MOST_NAMESPACES {
        let expected = format!("the XML of a libvirt domain, with at most {MOST_NAMESPACES} of them");
        return Err(Refusal::invalid("domain", format!("{namespaces} declarations of namespaces"), expected));
    }
    Ok(())
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

    fn parse_text(metadata: &str) -> String {
        format!("<domain type='kvm' id='7'><name>g</name><metadata>{metadata}</metadata><memory>1</memory></domain>")
    }

    fn parse(metadata: &str) -> Result<Domain, Refusal> {
        Domain::parse(&parse_text(metadata))
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

    #[test]
    fn the_driver_is_known_whatever_the_metadata_has_become() {
        for (text, driver) in [
            ("<?xml version='1.0'?>\n<domain type='lxc' id='7'><metadata><x:set", "lxc"),
            ("<domain type=\"kvm\" id=\"7\">", "qemu"),
            ("<domain type='lxc' xmlns:q='http://libvirt.org/'/>", "lxc"),
            (parse_text("<x:set quota='many'/>").as_str(), "qemu"),
        ] {
            assert_eq!(Domain::driver_of(text).unwrap(), driver, "{text}");
        }
        assert!(Domain::driver_of("").is_err() && Domain::driver_of("<network type='lxc'>").is_err());
    }

    #[test]
    fn what_would_take_the_parser_long_is_refused_before_it_is_parsed() {
        let began = std::time::Instant::now();
        let attributes: String = (0..200_000).map(|n| format!(" a{n}=''")).collect();
        let nested =
            |n: usize| (0..n).map(|n| format!("<a xmlns:n{n}='u{n}'>")).collect::<String>() + &"</a>".repeat(n);
        for (metadata, why) in [(format!("<a{attributes}/>"), "a tag of"), (nested(20_000), "declarations")] {
            let refusal = parse(&metadata).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
        assert!(began.elapsed().as_secs() < 10);
        assert_eq!(parse(&nested(100)).unwrap().set, None);
        assert_eq!(parse(&("<a>".repeat(10_000) + &"</a>".repeat(10_000))).unwrap().set, None, "no recursion");
        assert_eq!(parse(&format!("<a>{}</a>", "x".repeat(1 << 20))).unwrap().set, None, "a long text is no tag");
    }
}
