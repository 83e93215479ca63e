//! Finds the workers that are read over HTTP: by name, in files, from a server, in the DNS.
//!
//! A list that cannot be read now stays as it was.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper::Uri;

use super::dns::Question;
use super::http::Http;
use super::rules::fits;
use super::targets::{Target, parse_list, parse_yaml};
use crate::error::{Error, Result};

/// Where workers are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// `HOST:PORT`, or URLs.
    pub targets: Vec<String>,
    /// Files in the form of Prometheus' `file_sd`: YAML where the name ends in `.yml` or `.yaml`,
    /// JSON elsewhere; `*` in a file's name is any text.
    pub file_sd: Vec<PathBuf>,
    /// URLs that answer in the form of Prometheus' `http_sd`.
    pub http_sd: Vec<String>,
    /// `NAME:PORT`, of which every address is a worker; or `NAME`, whose SRV records tell hosts
    /// and ports.
    pub dns: Vec<String>,
    /// The server that is asked for names. Default: those of the system.
    pub dns_server: Option<SocketAddr>,
}

/// One place where workers are named.
#[derive(Debug)]
enum Place {
    Fixed(Target),
    File(PathBuf),
    Http(Uri),
    Dns(Question, Option<SocketAddr>),
}

/// All places, and what each said last.
#[derive(Debug)]
pub(super) struct Places(Vec<(Place, Vec<Target>)>);

impl Discovery {
    /// Whether no worker can be found so.
    pub fn is_empty(&self) -> bool {
        let Self { targets, file_sd, http_sd, dns, dns_server: _ } = self;
        targets.is_empty() && file_sd.is_empty() && http_sd.is_empty() && dns.is_empty()
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
            let bad = || {
                let text =
                    format!("dns is {name:?}; it must be NAME:PORT, or NAME for its SRV records");
                Error::InvalidArgument(text)
            };
            let question = Question::parse(name).ok_or_else(bad)?;
            places.push(Place::Dns(question, self.dns_server));
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
                let lists = files(path)?.into_iter().map(|path| read_list(&path));
                Ok(lists.collect::<std::result::Result<Vec<_>, _>>()?.concat())
            }
            Self::Http(uri) => {
                let at = |error: String| format!("Cannot read the list {uri}: {error}");
                let page = http.get(uri, "application/json").await.map_err(|it| at(it.text))?;
                parse_list(&page.body).map_err(at)
            }
            Self::Dns(question, server) => {
                let answers = question.answers(*server).await?;
                Ok(answers.iter().filter_map(|it| Target::of_address(it)).collect())
            }
        }
    }
}

/// Whether a URL is one that can be asked.
pub(super) fn is_http(uri: &Uri) -> bool {
    ["http", "https"].contains(&uri.scheme_str().unwrap_or_default())
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> String {
    format!("Cannot read the list {}: {error}", path.display())
}

/// The files that a path names: itself, or all that fit the pattern in its last part.
fn files(path: &Path) -> std::result::Result<Vec<PathBuf>, String> {
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    if !pattern.contains('*') {
        return Ok(vec![path.to_owned()]);
    }
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(path, error))?;
    let named = entries.flatten().filter(|it| fits(&pattern, &it.file_name().to_string_lossy()));
    let mut found: Vec<PathBuf> = named.map(|it| it.path()).collect();
    found.sort_unstable();
    Ok(found)
}

fn read_list(path: &Path) -> std::result::Result<Vec<Target>, String> {
    let text = std::fs::read(path).map_err(|error| unreadable(path, error))?;
    let yaml = path.extension().is_some_and(|it| it == "yml" || it == "yaml");
    let list = if yaml { parse_yaml(&text) } else { parse_list(&text) };
    list.map_err(|error| unreadable(path, error))
}
