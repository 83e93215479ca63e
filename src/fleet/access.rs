//! Where the NATS server is, and how it lets one in.

use std::fmt;
use std::path::PathBuf;

use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// A NATS server. What is secret of it is in no text that is made of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsServer {
    /// `nats://127.0.0.1:4222`, or `tls://` to insist on TLS; user and password, or a token, may
    /// stand before an `@`.
    pub url: String,
    /// The user, with a password.
    pub user: Option<String>,
    /// The password of the user.
    pub password: Option<String>,
    /// A token in place of both.
    pub token: Option<String>,
    /// A file with a user's JWT and the seed of its key, as `nsc` writes it.
    pub credentials: Option<PathBuf>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// A PEM file with the authorities that the server's certificate may come from, beside those
    /// of the system.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's own certificate.
    pub certificate: Option<PathBuf>,
    /// A PEM file with its key.
    pub key: Option<PathBuf>,
}

impl NatsServer {
    /// A server that lets everybody in.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Its URL without what is secret.
    pub(super) fn shown(&self) -> String {
        let Some((front, back)) = self.url.rsplit_once('@') else { return self.url.clone() };
        let scheme = front.split_once("://").map_or("nats", |(scheme, _)| scheme);
        format!("{scheme}://{back}")
    }

    /// Its address, and the options by which it lets one in.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what is none or does not go together, [`Error::Io`] for a
    /// file that cannot be read.
    pub(super) fn open(&self) -> Result<(ServerAddr, ConnectOptions)> {
        let bad =
            |text: &str| Error::InvalidArgument(format!("nats is {:?}; {text}", self.shown()));
        let address = self.url.parse::<ServerAddr>();
        let address = address.map_err(|_| bad("it must be a URL such as nats://127.0.0.1:4222"))?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = self.user.clone().or(address.username().map(decoded));
        let password = self.password.clone().or(address.password().map(decoded));
        let both = [user.is_some() && password.is_some(), self.token.is_some()];
        let ways = both.into_iter().chain([self.credentials.is_some()]).filter(|it| *it).count();
        if ways > 1 {
            return Err(bad("user and password, token and credentials are one too many"));
        }
        let mut options = ConnectOptions::new().require_tls(self.tls);
        options = match (user, password, &self.token) {
            (Some(user), Some(password), _) => options.user_and_password(user, password),
            (None, None, Some(token)) => options.token(token.clone()),
            (None, None, None) => options,
            // As everywhere with NATS, what stands alone before the `@` is a token.
            (Some(token), None, None) if self.user.is_none() => options.token(token),
            _ => return Err(bad("a user has a password, and a password a user")),
        };
        if let Some(path) = &self.credentials {
            let action = || format!("read the credentials {}", path.display());
            let text = std::fs::read_to_string(path).map_err(Error::io(action()))?;
            options = options.credentials(&text).map_err(Error::io(action()))?;
        }
        self.with_files(address, options)
    }

    fn with_files(
        &self,
        address: ServerAddr,
        mut options: ConnectOptions,
    ) -> Result<(ServerAddr, ConnectOptions)> {
        for path in [&self.ca, &self.certificate, &self.key].into_iter().flatten() {
            std::fs::File::open(path).map_err(Error::io(format!("read {}", path.display())))?;
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        options = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                options.add_client_certificate(certificate.clone(), key.clone())
            }
            (None, None) => options,
            _ => {
                let text = format!(
                    "nats is {:?}; a certificate has a key, and a key a certificate",
                    self.shown()
                );
                return Err(Error::InvalidArgument(text));
            }
        };
        Ok((address, options))
    }
}

impl fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsServer")
            .field("url", &self.shown())
            .field("user", &self.user)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_in_no_text() {
        let table = [
            ("nats://me:hunter2@a:1", "nats://a:1"),
            ("tls://hunter%32@a", "tls://a"),
            ("me:hun@ter2@a:1", "nats://a:1"),
            ("a:1", "a:1"),
        ];
        for (url, shown) in table {
            let [password, token] = ["hunter2"; 2].map(|it| Some(it.to_owned()));
            let server = NatsServer { password, token, ..NatsServer::at(url) };
            assert_eq!(server.shown(), shown);
            let text = format!("{server:?}{}", server.open().map(|it| it.0).unwrap_err());
            assert!(!text.contains("ter2") && !text.contains("hunter"), "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let at = NatsServer::at;
        let table = [
            (at("ftp://a"), "it must be a URL such as nats://127.0.0.1:4222"),
            (NatsServer { user: Some("u".into()), ..at("a") }, "a user has a password"),
            (NatsServer { password: Some("p".into()), ..at("a") }, "a user has a password"),
            (NatsServer { token: Some("t".into()), ..at("u:p@a") }, "are one too many"),
            (NatsServer { key: Some("Cargo.toml".into()), ..at("a") }, "a certificate has a key"),
            (NatsServer { ca: Some("/no/file".into()), ..at("a") }, "/no/file"),
            (NatsServer { credentials: Some("/no/creds".into()), ..at("a") }, "/no/creds"),
            (NatsServer { credentials: Some("Cargo.toml".into()), ..at("a") }, "Cargo.toml"),
        ];
        for (server, expected) in table {
            let error = server.open().map(|it| it.0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for url in ["nats://u:p@a", "t@a", "tls://a:1", "a"] {
            assert!(at(url).open().is_ok(), "{url}");
        }
    }
}
