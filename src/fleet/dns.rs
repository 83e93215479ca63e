//! Looks names up in the DNS, as Prometheus' `dns_sd` does: the addresses of a name, and the hosts
//! and ports of a service.
//!
//! Addresses are the system's to know, unless a server is named to ask. A name of which there is
//! nothing has no workers; without an answer, it is not known which it has.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, ResolverBuilder, TokioResolver};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a look-up may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The addresses of a name, at this port.
    Addresses(String, u16),
    /// The hosts and ports of a service: its SRV records.
    Service(String),
}

impl Question {
    /// From `NAME:PORT` or `NAME`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let valid = |name: &str| !name.is_empty() && !name.contains([':', '/', ' ']);
        match text.rsplit_once(':') {
            Some((name, port)) if valid(name) => {
                Some(Self::Addresses(name.to_owned(), port.parse().ok()?))
            }
            None if valid(text) => Some(Self::Service(text.to_owned())),
            _ => None,
        }
    }

    fn name(&self) -> &str {
        let (Self::Addresses(name, _) | Self::Service(name)) = self;
        name
    }

    /// The answers as `host:port`; asks this server, or those of the system.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn answers(&self, server: Option<SocketAddr>) -> Result<Vec<String>, String> {
        let answers = async {
            match (self, server) {
                (Self::Addresses(name, port), None) => of_system(name, *port).await,
                (Self::Addresses(name, port), Some(_)) => addresses(server, name, *port).await,
                (Self::Service(name), _) => service(server, name).await,
            }
        };
        let answers = timeout(LIMIT, answers).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        answers.map_err(|error| format!("Cannot look {} up: {error}", self.name()))
    }
}

async fn of_system(name: &str, port: u16) -> Result<Vec<String>, String> {
    let found = lookup_host((name, port)).await.map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.to_string()).collect())
}

async fn addresses(
    server: Option<SocketAddr>,
    name: &str,
    port: u16,
) -> Result<Vec<String>, String> {
    let found = match resolver(server)?.lookup_ip(name).await {
        Ok(found) => found.iter().collect(),
        Err(error) if error.is_no_records_found() => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    Ok(found.into_iter().map(|ip: IpAddr| SocketAddr::new(ip, port).to_string()).collect())
}

async fn service(server: Option<SocketAddr>, name: &str) -> Result<Vec<String>, String> {
    let found = match resolver(server)?.srv_lookup(name).await {
        Ok(found) => found,
        Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let host_and_port = |data: &RData| match data {
        RData::SRV(it) => {
            Some(format!("{}:{}", it.target.to_utf8().trim_end_matches('.'), it.port))
        }
        _ => None,
    };
    Ok(found.answers().iter().filter_map(|record| host_and_port(&record.data)).collect())
}

/// Made anew for each look-up: what the system says may have changed, and nothing is kept longer
/// than `refresh_interval`.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let text = |error: NetError| error.to_string();
    let Some(server) = server else {
        return Resolver::builder_tokio().and_then(ResolverBuilder::build).map_err(text);
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
        it.port = server.port();
        it
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(ResolverOpts::default()).build().map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_port_has_addresses_and_one_without_is_a_service() {
        let table = [
            ("a.b:80", Some(Question::Addresses("a.b".into(), 80))),
            ("_http._tcp.a.b", Some(Question::Service("_http._tcp.a.b".into()))),
            ("", None),
            (":80", None),
            ("a:x", None),
            ("a:b:80", None),
            ("http://a", None),
        ];
        for (text, expected) in table {
            assert_eq!(Question::parse(text), expected, "{text}");
        }
    }
}
