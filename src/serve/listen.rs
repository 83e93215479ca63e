//! Listening: a TCP port or a Unix socket's file, and what is left of them afterwards.
//!
//! A socket's file is replaced only if it is a socket nobody listens on, and removed only if it is
//! still the one that was made here. It is given its permissions before it accepts anybody.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::config::Bind;
use super::socket::Socket;
use crate::error::{Error, Result};

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 128;

/// How long to pause when the system has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; its text is `127.0.0.1:9464` or `[::1]:9464`.
    Tcp(SocketAddr),
    /// A Unix socket; its text is the file's path.
    Unix(PathBuf),
}

impl Address {
    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A listening socket. Dropping it stops the listening, even while a forked child holds a copy of
/// its descriptor.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The next connection. Pauses while the system has no descriptor for one.
    pub(super) async fn next(&self) -> Socket {
        loop {
            match self.accept().await {
                Ok(socket) => return socket,
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true); // an answer is one write or few: only faster
                Ok(Socket::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let socket = match self {
            Self::Tcp(listener) => SockRef::from(&*listener),
            Self::Unix(listener) => SockRef::from(&*listener),
        };
        let _ = socket.shutdown(Shutdown::Both); // macOS refuses; there, closing is enough
    }
}

/// The file of a Unix socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a later server may have put its own file there.
    identity: (u64, u64),
}

impl SocketFile {
    /// Removes the file if it is still the one that was made.
    pub(super) fn remove(&self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path); // somebody else was faster
        }
    }
}

/// Starts to listen. Needs the context of the runtime that will accept.
///
/// # Errors
///
/// [`Error::Io`] if the address is taken, not allowed or not there.
pub(super) fn listen(bind: &Bind) -> Result<(Listener, Address, Option<SocketFile>)> {
    match bind {
        Bind::Tcp { host, port } => {
            let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let action = format!("listen on {shown}:{port}");
            let (listener, address) = tcp(host, *port).map_err(Error::io(action))?;
            Ok((listener, Address::Tcp(address), None))
        }
        Bind::Unix { path, mode } => {
            let action = format!("listen on {}", path.display());
            let (listener, file) = unix(path, *mode).map_err(Error::io(action))?;
            Ok((listener, Address::Unix(path.clone()), Some(file)))
        }
    }
}

fn tcp(host: &str, port: u16) -> io::Result<(Listener, SocketAddr)> {
    let listener = StdTcpListener::bind((host, port))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((Listener::Tcp(TcpListener::from_std(listener)?), address))
}

fn unix(path: &Path, mode: u32) -> io::Result<(Listener, SocketFile)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        let text = format!("{} is not a directory", directory.display());
        return Err(io::Error::new(ErrorKind::NotFound, text));
    }
    clear(path)?;
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on the file exists, and must not outlive a failure.
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    let listening = fs::set_permissions(path, Permissions::from_mode(mode))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| socket.set_nonblocking(true))
        .and_then(|()| UnixListener::from_std(StdUnixListener::from(socket)));
    match listening {
        Ok(listener) => Ok((Listener::Unix(listener), file)),
        Err(error) => {
            file.remove();
            Err(error)
        }
    }
}

/// Removes the socket of a server that is gone, and nothing else.
fn clear(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        let text = "the file exists and is not a socket; it is left alone";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another server listens there")),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
