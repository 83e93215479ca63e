//! The names of a component's service on NATS, and the replies of its workers. Pure.
//!
//! A worker is a micro-service in the sense of NATS: it answers `$SRV.STATS.{service}` with its
//! statistics, in whose `data` its load is.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::load::{Endpoint, ForwardPassMetrics, WorkerId};
use crate::error::{Error, Result};

/// The trio that a fleet is called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// What all components of a deployment share.
    pub namespace: String,
    /// The component.
    pub component: String,
    /// Its endpoint.
    pub endpoint: String,
}

impl Component {
    /// # Errors
    /// [`Error::InvalidArgument`] for a part that cannot stand in a subject.
    pub fn check(&self) -> Result<()> {
        let parts = [
            ("namespace", &self.namespace),
            ("component", &self.component),
            ("endpoint", &self.endpoint),
        ];
        parts.into_iter().try_for_each(|(name, part)| check_token(name, part))
    }

    /// The service's name: both parts in small letters, and a hash that tells apart what they
    /// make alike. Dynamo's workers are called so too.
    ///
    /// ```
    /// use ryot_metrics::fleet::Component;
    /// let parts = ["triton-init", "backend", "generate"];
    /// let [namespace, component, endpoint] = parts.map(str::to_owned);
    /// let name = Component { namespace, component, endpoint }.service();
    /// assert_eq!(name, "triton_init_backend_720278f8");
    /// ```
    pub fn service(&self) -> String {
        let name = format!("{}|{}", self.namespace, self.component);
        let hash = blake3::hash(name.as_bytes()).to_hex();
        let keep = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
        let slug: String =
            name.to_lowercase().chars().map(|it| if keep(it) { it } else { '_' }).collect();
        format!("{}_{}", slug.trim_start_matches('_'), &hash[hash.len() - 8..])
    }

    /// Where events about cache hits are published.
    pub fn hit_rate_subject(&self) -> String {
        format!("{}.kv-hit-rate", self.namespace)
    }
}

/// Whether a text can be one part of a subject.
pub(super) fn check_token(name: &str, text: &str) -> Result<()> {
    let forbidden = |it: char| it.is_whitespace() || it.is_control() || ".*>".contains(it);
    if text.is_empty() || text.contains(forbidden) {
        let text =
            format!("{name} is {text:?}; it must be of one letter at least, without space . * >");
        return Err(Error::InvalidArgument(text));
    }
    Ok(())
}

/// The subject of an endpoint's workers, without their numbers: what replies are filtered by.
#[derive(Clone, Debug)]
pub(super) struct Filter(String);

/// A reply to `$SRV.STATS`; only what is of use here.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    endpoints: Vec<ReplyEndpoint<'a>>,
}

#[derive(Deserialize)]
struct ReplyEndpoint<'a> {
    subject: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    /// What the worker says of its last failure.
    #[serde(default)]
    last_error: Option<String>,
}

impl Filter {
    pub(super) fn new(service: &str, endpoint: &str) -> Self {
        Self(format!("{service}.{endpoint}"))
    }

    /// The endpoint's name: what follows the service's, which has no dot.
    pub(super) fn endpoint(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, endpoint)| endpoint)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of the worker with this number.
    pub(super) fn of(&self, worker: i64) -> String {
        format!("{}-{worker:x}", self.0)
    }

    /// The number of the worker whose subject this is. `generate-fast-1f` is none of `generate`.
    fn worker(&self, subject: &str) -> Option<i64> {
        let number = subject.strip_prefix(&self.0)?.strip_prefix('-')?;
        let digits = !number.is_empty() && number.bytes().all(|it| it.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(number, 16).ok()).flatten().map(|it| it as i64)
    }

    /// The workers in a reply: those of this endpoint, each with its load or with what is wrong
    /// with it.
    ///
    /// # Errors
    /// What is wrong with the reply as a whole.
    pub(super) fn workers(&self, reply: &[u8]) -> std::result::Result<Vec<Worker>, String> {
        let reply: Reply<'_> = serde_json::from_slice(reply).map_err(|error| error.to_string())?;
        let of = |it: ReplyEndpoint<'_>| {
            let id = WorkerId::from(self.worker(&it.subject)?);
            let name = id.name();
            let data = it.data.map_or("null", RawValue::get);
            let endpoint = serde_json::from_str::<ForwardPassMetrics>(data)
                .map(|data| Endpoint { name, subject: it.subject, data: data.into() })
                .map_err(|_| match it.last_error.as_deref().unwrap_or_default() {
                    "" => format!("its data is no load: {}", excerpt(data)),
                    error => format!("it could not tell its load: {}", excerpt(error)),
                });
            Some((id, endpoint))
        };
        Ok(reply.endpoints.into_iter().filter_map(of).collect())
    }
}

/// A worker, and its load or what is wrong with it.
pub(super) type Worker = (WorkerId, std::result::Result<Endpoint, String>);

/// The beginning of what somebody sent, for a message.
pub(super) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 60;
    let start: String = text.chars().take(LENGTH).collect();
    if start.len() < text.len() { format!("{start:?}…") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(subject: &str, data: &str) -> String {
        format!(
            r#"{{"type": "io.nats.micro.v1.stats_response", "name": "s", "endpoints":
                [{{"name": "x", "subject": "{subject}", "num_requests": 0, "data": {data}}}]}}"#
        )
    }

    const LOAD: &str = r#"{"request_active_slots": 1, "request_total_slots": 2,
        "kv_active_blocks": 3, "kv_total_blocks": 4}"#;

    #[test]
    fn a_reply_tells_the_worker_and_its_load() {
        let filter = Filter::new("s", "generate");
        let id = 7_587_884_888_253_033_398;
        let workers = filter.workers(of(&filter.of(id), LOAD).as_bytes()).unwrap();
        let endpoint = workers[0].1.clone().unwrap();
        assert_eq!(workers[0].0, WorkerId::from(id));
        assert_eq!(endpoint.name, "worker-7587884888253033398");
        assert_eq!(endpoint.subject, "s.generate-694d951a80e06bb6");
        assert_eq!(endpoint.data.kv_active_blocks, Some(3));
    }

    #[test]
    fn only_the_endpoint_s_own_subjects_count() {
        let filter = Filter::new("s", "generate");
        for other in ["s.generate2-1f", "s.generate", "s.generate-", "s.generate-fast-1f", "t.x-1"]
        {
            assert_eq!(filter.workers(of(other, LOAD).as_bytes()).unwrap(), [], "{other}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let filter = Filter::new("s", "generate");
        let bad = filter.workers(of("s.generate-1f", r#"{"kv": 1}"#).as_bytes()).unwrap();
        assert_eq!(bad[0].1, Err(r#"its data is no load: "{\"kv\": 1}""#.to_owned()));
        assert!(filter.workers(b"{").unwrap_err().contains("EOF"));
        let long = filter.workers(of("s.generate-1f", &format!("{:?}", "x".repeat(99))).as_bytes());
        assert!(long.unwrap()[0].1.as_ref().unwrap_err().ends_with('…'));
    }

    #[test]
    fn a_part_of_a_subject_has_no_dots_or_spaces() {
        let of = |namespace: &str| Component {
            namespace: namespace.into(),
            component: "b".into(),
            endpoint: "g".into(),
        };
        assert!(of("dynemo").check().is_ok());
        for bad in ["", "a.b", "a b", "*", ">"] {
            let text = of(bad).check().unwrap_err().to_string();
            assert!(text.starts_with(&format!("namespace is {bad:?};")), "{text}");
        }
    }

    #[test]
    fn services_that_look_alike_differ_in_their_hash() {
        let of = |namespace: &str| Component {
            namespace: namespace.into(),
            component: "b".into(),
            endpoint: "g".into(),
        };
        let (one, other) = (of("a-b").service(), of("a_b").service());
        assert_eq!((&one[..6], &other[..6]), ("a_b_b_", "a_b_b_"));
        assert_ne!(one, other);
    }
}
