//! The workers that are read over HTTP, and the lists that name them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const PATH: &str = "/metrics";

/// A worker's page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// `host:port`, with the path if it is not the usual one.
    pub(super) name: Arc<str>,
    pub(super) uri: Uri,
}

/// A group of a list, as Prometheus' `file_sd` and `http_sd` have it.
#[derive(Debug, Deserialize, Serialize)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Target {
    /// A target from `host:port` or a URL; without a path, it is `/metrics`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = || {
            let text = format!("target is {text:?}; it must be HOST:PORT, or an http or https URL");
            Error::InvalidArgument(text)
        };
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().filter(|it| !it.host().is_empty()).ok_or_else(bad)?;
        if !["http", "https"].contains(&scheme) || (text == url && uri.host().is_none()) {
            return Err(bad());
        }
        if text != url && authority.port_u16().is_none() {
            return Err(bad());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path == "/" { PATH } else { path };
        Self::at(scheme, authority.as_str(), path).ok_or_else(bad)
    }

    fn at(scheme: &str, authority: &str, path: &str) -> Option<Self> {
        let uri = format!("{scheme}://{authority}{path}").parse().ok()?;
        let name = if path == PATH { authority.to_owned() } else { format!("{authority}{path}") };
        Some(Self { name: name.into(), uri })
    }

    /// The target at an address that a name stands for: `address:port`, `name:port`.
    pub(super) fn of_address(address: &str) -> Option<Self> {
        Self::at("http", address, PATH)
    }
}

/// The targets of a list in JSON as Prometheus reads it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_list(json: &[u8]) -> std::result::Result<Vec<Target>, String> {
    targets_of(&serde_json::from_slice::<Vec<Group>>(json).map_err(|error| error.to_string())?)
}

/// The targets of a list in YAML, which may have nothing in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_yaml(yaml: &[u8]) -> std::result::Result<Vec<Target>, String> {
    let groups: Option<Vec<Group>> =
        serde_saphyr::from_slice(yaml).map_err(|error| error.to_string())?;
    targets_of(&groups.unwrap_or_default())
}

fn targets_of(groups: &[Group]) -> std::result::Result<Vec<Target>, String> {
    let mut targets = Vec::new();
    for group in groups {
        let label = |name: &str, other| group.labels.get(name).map_or(other, String::as_str);
        let (scheme, path) = (label("__scheme__", "http"), label("__metrics_path__", PATH));
        for address in &group.targets {
            let target = Target::parse(&format!("{scheme}://{address}{path}"));
            targets.push(target.map_err(|error| error.to_string())?);
        }
    }
    Ok(targets)
}

/// The list that tells Prometheus of these targets.
pub(super) fn list(targets: &[Target]) -> Vec<u8> {
    let group = |target: &Target| {
        let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let path = target.uri.path_and_query().map(PathAndQuery::as_str);
        Group {
            targets: vec![part(target.uri.authority().map(Authority::as_str))],
            labels: BTreeMap::from([
                ("__metrics_path__".to_owned(), part(path)),
                ("__scheme__".to_owned(), part(target.uri.scheme_str())),
            ]),
        }
    };
    serde_json::to_vec(&targets.iter().map(group).collect::<Vec<_>>()).expect("texts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_url() {
        let table = [
            ("a:1", "a:1", "http://a:1/metrics"),
            ("[::1]:80", "[::1]:80", "http://[::1]:80/metrics"),
            ("https://a", "a", "https://a/metrics"),
            ("http://a:1/", "a:1", "http://a:1/metrics"),
            ("http://a:1/x?y=z", "a:1/x?y=z", "http://a:1/x?y=z"),
        ];
        for (text, name, uri) in table {
            let target = Target::parse(text).unwrap();
            assert_eq!((&*target.name, &*target.uri.to_string()), (name, uri));
        }
        for bad in ["", "a", "a b:1", "ftp://a:1", "a:99999", "http://", ":80"] {
            let error = Target::parse(bad).map(|it| it.uri).unwrap_err().to_string();
            assert!(error.starts_with(&format!("target is {bad:?}; it must be")), "{error}");
        }
    }

    #[test]
    fn a_list_is_read_as_prometheus_reads_it_and_written_so() {
        let json = br#"[{"targets": ["a:1", "b:2"], "labels": {"zone": "x"}},
            {"targets": ["c:3"], "labels": {"__scheme__": "https", "__metrics_path__": "/m"}}]"#;
        let targets = parse_list(json).unwrap();
        let uris: Vec<String> = targets.iter().map(|it| it.uri.to_string()).collect();
        assert_eq!(uris, ["http://a:1/metrics", "http://b:2/metrics", "https://c:3/m"]);
        assert_eq!(parse_list(&list(&targets)).unwrap(), targets);
        for bad in ["", "{}", r#"[{"targets": "a:1"}]"#, r#"[{"targets": ["a b"]}]"#] {
            assert!(parse_list(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_in_yaml_is_the_same() {
        let yaml = b"# workers\n- targets: ['a:1', \"b:2\"]\n  labels: {zone: x, rack: \"7\"}\n\
                     - targets:\n  - c:3\n  labels:\n    __scheme__: https\n    \
                     __metrics_path__: /m\n";
        let uris: Vec<String> =
            parse_yaml(yaml).unwrap().iter().map(|it| it.uri.to_string()).collect();
        assert_eq!(uris, ["http://a:1/metrics", "http://b:2/metrics", "https://c:3/m"]);
        assert_eq!(parse_yaml(b"").unwrap(), []);
        for bad in ["a: b", "- a:1", "- targets: a:1", "- {targets: [a b]}", "- targets: [a:1"] {
            assert!(parse_yaml(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
