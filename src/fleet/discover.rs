//! Finds the workers that are read over HTTP: by name, in files, from a server, in the DNS.
//!
//! A list that cannot be read now stays as it was.

use std::path::PathBuf;

use hyper::Uri;
use tokio::net::lookup_host;

use super::http::Http;
use super::targets::{Target, parse_list};
use crate::error::{Error, Result};

/// Where workers are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// `HOST:PORT`, or URLs.
    pub targets: Vec<String>,
    /// Files in the form of Prometheus' `file_sd`, as JSON.
    pub file_sd: Vec<PathBuf>,
    /// URLs that answer in the form of Prometheus' `http_sd`.
    pub http_sd: Vec<String>,
    /// `NAME:PORT`; every address of the name is a worker.
    pub dns: Vec<String>,
}

/// One place where workers are named.
#[derive(Debug)]
enum Place {
    Fixed(Target),
    File(PathBuf),
    Http(Uri),
    Dns(String),
}

/// All places, and what each said last.
#[derive(Debug)]
pub(super) struct Places(Vec<(Place, Vec<Target>)>);

impl Discovery {
    /// Whether no worker can be found so.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// [`Error::InvalidArgument`] for what names no worker and no list.
    pub(super) fn places(&self) -> Result<Places> {
        let mut places = Vec::new();
        for target in &self.targets {
            places.push(Place::Fixed(Target::parse(target)?));
        }
        for url in &self.http_sd {
            let uri = url.parse::<Uri>().ok().filter(is_http);
            let bad = || Error::InvalidArgument(format!("http_sd is {url:?}; it must be a URL"));
            places.push(Place::Http(uri.ok_or_else(bad)?));
        }
        for name in &self.dns {
            let port = name.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            let bad = || Error::InvalidArgument(format!("dns is {name:?}; it must be NAME:PORT"));
            port.ok_or_else(bad)?;
            places.push(Place::Dns(name.clone()));
        }
        places.extend(self.file_sd.iter().cloned().map(Place::File));
        Ok(Places(places.into_iter().map(|place| (place, Vec::new())).collect()))
    }
}

impl Places {
    /// All targets that are named now, none twice; and what is wrong with a place.
    pub(super) async fn targets(&mut self, http: &Http) -> (Vec<Target>, Vec<String>) {
        let mut errors = Vec::new();
        for (place, last) in &mut self.0 {
            match place.targets(http).await {
                Ok(targets) => *last = targets,
                Err(error) => errors.push(error),
            }
        }
        let mut all: Vec<Target> = self.0.iter().flat_map(|(_, last)| last).cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        (all, errors)
    }
}

impl Place {
    async fn targets(&self, http: &Http) -> std::result::Result<Vec<Target>, String> {
        match self {
            Self::Fixed(target) => Ok(vec![target.clone()]),
            Self::File(path) => {
                let at =
                    |error: String| format!("Cannot read the list {}: {error}", path.display());
                let json = std::fs::read(path).map_err(|error| at(error.to_string()))?;
                parse_list(&json).map_err(at)
            }
            Self::Http(uri) => {
                let at = |error: String| format!("Cannot read the list {uri}: {error}");
                let page = http.get(uri, "application/json").await.map_err(|it| at(it.text))?;
                parse_list(&page.body).map_err(at)
            }
            Self::Dns(name) => {
                let at = |error: std::io::Error| format!("Cannot look {name} up: {error}");
                let found = tokio::time::timeout(LOOK_UP_LIMIT, lookup_host(name)).await;
                let found = found.map_err(|_| format!("Cannot look {name} up: no answer"))?;
                Ok(found.map_err(at)?.map(Target::of_address).collect())
            }
        }
    }
}

/// Whether a URL is one that can be asked.
pub(super) fn is_http(uri: &Uri) -> bool {
    ["http", "https"].contains(&uri.scheme_str().unwrap_or_default())
}

/// How long a look-up of a name may take.
const LOOK_UP_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
