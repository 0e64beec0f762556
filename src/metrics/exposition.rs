//! What the figures are called.

use crate::controller::{CgroupFigures, Figures};
use crate::model::Limit;
use crate::proto::DomainInfo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;

/// Cgroups in one scrape, at most: the label with the most values is bounded by it.
pub const MOST_CGROUPS: usize = 1000;

/// The figures as OpenMetrics text. Source: the OpenMetrics 1.0 specification.
///
/// A limit that is not set is `+Inf`, so that `current / max` is 0 and no alert has to know.
pub fn render(figures: Figures, backend: &str) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ioasid");
    let version = env!("CARGO_PKG_VERSION").to_owned();
    registry.register("service", "The service", Info::new([("version", version), ("backend", backend.to_owned())]));
    registry.register_collector(Box::new(Moment(figures)));
    let mut exposition = String::new();
    text::encode(&mut exposition, &registry)?;
    // Some parsers know infinity only as Prometheus writes it. Line feeds in labels are escaped: this is a value's.
    Ok(exposition.replace(" inf\n", " +Inf\n"))
}

/// Figures of one moment, as a collector.
#[derive(Debug)]
struct Moment(Figures);

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.cgroups(&mut families)?;
        self.domains(&mut families)?;
        self.service(&mut families)
    }
}

impl Moment {
    fn cgroups(&self, families: &mut Families<'_>) -> fmt::Result {
        let rows = |value: fn(&CgroupFigures) -> Option<f64>| {
            let row = move |cgroup: &CgroupFigures| Some((cgroup.path.as_str().to_owned(), value(cgroup)?));
            self.0.cgroups.iter().filter_map(row).collect::<Vec<_>>()
        };
        let max = rows(|cgroup| {
            cgroup.max.map(|max| match max {
                Limit::Count(count) => count as f64,
                Limit::Max => f64::INFINITY,
            })
        });
        families.gauges("cgroup_max", "Ids that may be charged to the cgroup", "cgroup", max)?;
        let current = rows(|cgroup| Some(cgroup.current as f64));
        families.gauges("cgroup_current", "Ids charged to the cgroup and below", "cgroup", current)?;
        let peak = rows(|cgroup| Some(cgroup.peak as f64));
        families.gauges("cgroup_peak", "The most ids ever charged", "cgroup", peak)?;
        let counts = |count: fn(&CgroupFigures) -> u64| {
            let below_root = self.0.cgroups.iter().filter(|cgroup| cgroup.max.is_some());
            below_root.map(move |cgroup| (cgroup.path.as_str().to_owned(), count(cgroup))).collect::<Vec<_>>()
        };
        let hits = "Requests refused by the limit of the cgroup or one below it";
        families.counters("cgroup_max_events", hits, "cgroup", counts(|cgroup| cgroup.events))?;
        let hits = "Requests refused by the limit of the cgroup itself";
        families.counters("cgroup_max_events_local", hits, "cgroup", counts(|cgroup| cgroup.events_local))?;
        let omitted = self.0.cgroups_omitted;
        families.gauge("cgroups_omitted", "Cgroups that this scrape leaves out, those with the least ids", omitted)?;
        families.gauge("cgroups_dying", "Removed cgroups that ids are charged to", self.0.cgroups_dying)
    }

    fn domains(&self, families: &mut Families<'_>) -> fmt::Result {
        let rows = |value: fn(&DomainInfo) -> u64| {
            let row = move |domain: &DomainInfo| (domain.name.to_string(), value(domain) as f64);
            self.0.domains.iter().map(row).collect::<Vec<_>>()
        };
        families.gauges("domain_capacity", "Ids that the number space can hand out", "domain", rows(|d| d.capacity))?;
        families.gauges("domain_current", "Ids that are leased", "domain", rows(|d| d.current))?;
        families.gauges("domain_peak", "The most ids ever leased", "domain", rows(|d| d.peak))?;
        families.gauges("domain_resting", "Ids that rest before the next lease", "domain", rows(|d| d.resting))?;
        families.gauges("domain_reserved", "Ids that are never handed out", "domain", rows(|d| d.reserved))
    }

    fn service(&self, families: &mut Families<'_>) -> fmt::Result {
        let sets = self.0.sets.iter().map(|(state, count)| ((*state).to_owned(), *count as f64)).collect();
        families.gauges("sets", "Sets by where they stand", "state", sets)?;
        families.gauge("sessions", "Open sessions on sets", self.0.sessions as usize)?;
        families.counter("sets_created", "Sets that were ever made", self.0.sets_created)?;
        let refusals = self.0.refusals.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        families.counters("refusals", "Refusals handed out, by name", "error", refusals)
    }
}

/// The families of one scrape, each told whole.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        ConstGauge::new(value as f64).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, rows: Vec<(String, f64)>) -> fmt::Result {
        self.family(name, help, label, rows.into_iter().map(|(key, value)| (key, ConstGauge::new(value))))
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, rows: Vec<(String, u64)>) -> fmt::Result {
        self.family(name, help, label, rows.into_iter().map(|(key, value)| (key, ConstCounter::new(value))))
    }

    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl Iterator<Item = (String, M)>,
    ) -> fmt::Result {
        let mut rows = rows.peekable();
        let Some((_, first)) = rows.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        rows.try_for_each(|(key, metric)| metric.encode(family.encode_family(&[(label, key.as_str())])?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn cgroup(path: &str, max: Option<Limit>) -> CgroupFigures {
        let path = path.parse().unwrap();
        CgroupFigures { path, max, current: 3, peak: 5, events: 2, events_local: 1 }
    }

    #[test]
    fn every_family_is_told_whole_and_the_text_has_an_end() {
        let figures = Figures {
            cgroups: vec![cgroup("/", None), cgroup("/a", Some(Limit::Count(8))), cgroup("/b\"", Some(Limit::Max))],
            refusals: BTreeMap::from([("NoSpace", 4)]),
            sets: BTreeMap::from([("active", 1)]),
            sets_created: 9,
            ..Figures::default()
        };
        let text = render(figures, "userspace").unwrap();
        for line in [
            "# TYPE ioasid_cgroup_max gauge",
            "ioasid_cgroup_max{cgroup=\"/a\"} 8.0",
            "ioasid_cgroup_max{cgroup=\"/b\\\"\"} +Inf",
            "ioasid_cgroup_max_events_total{cgroup=\"/a\"} 2",
            "ioasid_refusals_total{error=\"NoSpace\"} 4",
            "ioasid_sets_created_total 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("cgroup_max{cgroup=\"/\"}"), "the root has no max");
    }
}
