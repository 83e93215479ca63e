//! The scrape server over real sockets: protocol, limits, slow clients, its start and its end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ryot_metrics::error::Error;
use ryot_metrics::metrics::{Desc, Family, Kind, Registry, Sink, Source};
use ryot_metrics::serve::{Address, Bind, Limits, ServeConfig, Server};

const PATIENCE: Duration = Duration::from_secs(20);

/// A registry whose page has about so many bytes.
fn registry(bytes: usize) -> Arc<Registry> {
    let registry = Arc::new(Registry::default());
    let desc = Desc::new(Kind::Counter, "jobs", "Jobs done.", &["queue"]).unwrap();
    let family = Family::register(desc, &registry).unwrap();
    for index in 0..bytes.div_ceil(100) {
        family.series(&[format!("{index:080}")]).add(1.0);
    }
    registry
}

fn start(limits: Limits) -> Server {
    serve(ServeConfig { limits, ..ServeConfig::default() }).unwrap()
}

fn serve(config: ServeConfig) -> Result<Server, Error> {
    Server::start(registry(4000), config)
}

fn tcp(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address().unwrap().to_string()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request with `Connection: close` and gives the whole answer.
fn ask(mut stream: impl Read + Write, head: &str) -> String {
    let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    rest(stream)
}

/// What comes until the server closes; nothing if it closed before.
fn rest(mut stream: impl Read) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// One answer of a connection that stays open.
fn next(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0] as char);
    }
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    answer + &String::from_utf8(body).unwrap()
}

/// A directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ryot-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn get_head_options_and_the_rest() {
    let server = start(Limits::default());
    let page = ask(tcp(&server), "GET /metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(page.contains("cache-control: no-store\r\n") && page.contains("} 1.0\n"));
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    let without = ask(tcp(&server), "HEAD /metrics");
    assert!(without.contains(&format!("content-length: {}", body.len())), "{without}");
    assert!(without.ends_with("\r\n\r\n"), "a HEAD has no body: {without}");
    let options = ask(tcp(&server), "OPTIONS /metrics");
    assert!(options.contains("200 OK") && options.contains("allow: GET, HEAD, OPTIONS"));
    let post = ask(tcp(&server), "POST /metrics");
    assert!(post.contains("405 Method Not Allowed") && post.contains("allow: GET"), "{post}");
}

#[test]
fn a_connection_is_kept_for_further_requests() {
    let server = start(Limits::default());
    let mut stream = tcp(&server);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n";
    for _ in 0..3 {
        assert!(next(&mut stream, request).ends_with("# EOF\n"));
    }
}

#[test]
fn nonsense_and_oversized_heads_are_refused() {
    let server = start(Limits::default());
    assert!(ask(tcp(&server), "what\0ever").starts_with("HTTP/1.1 400 "));
    let long = format!("GET /{}", "x".repeat(20_000));
    let answer = ask(tcp(&server), &long);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(ask(tcp(&server), "GET /").contains("200 OK"));
}

#[test]
fn silent_clients_lose_their_places_to_one_who_asks() {
    let server = start(Limits { max_connections: 4, ..Limits::default() });
    let mut regular = tcp(&server);
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    next(&mut regular, request);
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = tcp(&server);
        stream.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
        silent.push(stream);
    }
    assert!(ask(tcp(&server), "GET /").contains("200 OK"));
    assert!(next(&mut regular, request).contains("200 OK"), "who has asked stays");
    assert_eq!(rest(&mut silent[0]), "", "the first silent one is out");
}

#[test]
fn a_slow_head_and_an_idle_connection_end_by_the_read_timeout() {
    let server = start(Limits { read_timeout: Duration::from_millis(50), ..Limits::default() });
    let mut slow = tcp(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    let idle = tcp(&server);
    let mut kept = tcp(&server);
    next(&mut kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!rest(slow).contains("200 OK"));
    assert!(!rest(idle).contains("200 OK"));
    assert_eq!(rest(kept), "");
}

#[test]
fn a_client_that_does_not_read_ends_by_the_write_timeout() {
    let write_timeout = Duration::from_millis(100);
    let limits = Limits { write_timeout, ..Limits::default() };
    let config = ServeConfig { limits, ..ServeConfig::default() };
    let page = 20_000_000; // far more than the system's buffers take
    let server = Server::start(registry(page), config).unwrap();
    let mut deaf = tcp(&server);
    deaf.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Others are answered meanwhile. Two of them, and the deaf one's time is over for sure.
    for _ in 0..2 {
        assert!(ask(tcp(&server), "GET /").len() > page / 2);
        std::thread::sleep(write_timeout);
    }
    let mut answer = Vec::new();
    let _ = deaf.read_to_end(&mut answer);
    assert!(answer.len() < page / 2, "{}", answer.len());
}

#[test]
fn fifty_connections_at_once() {
    let server = start(Limits::default());
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut streams: Vec<TcpStream> = (0..50).map(|_| tcp(&server)).collect();
    for _ in 0..5 {
        for stream in &mut streams {
            assert!(next(stream, request).contains("200 OK"));
        }
    }
}

#[test]
fn a_shutdown_frees_the_port_and_can_be_repeated() {
    let server = start(Limits::default());
    let port = server.address().unwrap().port().unwrap();
    let mut open = tcp(&server);
    next(&mut open, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    server.shutdown().unwrap();
    server.shutdown().unwrap();
    assert_eq!(rest(open), "");
    let bind = Bind::Tcp { host: "127.0.0.1".into(), port };
    let again = serve(ServeConfig { bind, ..ServeConfig::default() }).unwrap();
    assert!(ask(tcp(&again), "GET /").contains("200 OK"));
    drop(again);
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn a_shutdown_does_not_wait_for_a_stuck_collector() {
    struct Stuck(Sender<()>, Mutex<Receiver<()>>);
    impl Source for Stuck {
        fn describe(&self) -> Vec<&Desc> {
            Vec::new()
        }
        fn collect(&self, _: &mut dyn Sink) {
            self.0.send(()).unwrap();
            let _ = self.1.lock().unwrap().recv();
        }
    }
    let registry = Arc::new(Registry::default());
    let (enter, entered) = channel();
    let (release, stuck) = channel();
    registry.register(Arc::new(Stuck(enter, Mutex::new(stuck)))).unwrap();
    let server = Server::start(registry, ServeConfig::default()).unwrap();
    let mut stream = tcp(&server);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    entered.recv().unwrap();
    server.shutdown().unwrap();
    drop(release);
}

#[test]
fn a_taken_or_unknown_address_is_an_error_that_names_it() {
    let server = start(Limits::default());
    let port = server.address().unwrap().port().unwrap();
    let bind = Bind::Tcp { host: "127.0.0.1".into(), port };
    let error = serve(ServeConfig { bind, ..ServeConfig::default() }).unwrap_err();
    assert!(matches!(error, Error::Io { code: Some(_), .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("listen on 127.0.0.1:{port}: ")), "{error}");
    let bind = Bind::Tcp { host: "no such host".into(), port: 0 };
    let error = serve(ServeConfig { bind, ..ServeConfig::default() }).unwrap_err();
    assert!(error.to_string().contains("no such host"), "{error}");
}

#[test]
fn ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without it
    }
    let bind = Bind::Tcp { host: "::1".into(), port: 0 };
    let server = serve(ServeConfig { bind, ..ServeConfig::default() }).unwrap();
    assert!(server.address().unwrap().to_string().starts_with("[::1]:"));
    assert!(ask(tcp(&server), "GET /").contains("200 OK"));
}

fn unix(path: &std::path::Path) -> Result<Server, Error> {
    let bind = Bind::Unix { path: path.into(), mode: 0o600 };
    serve(ServeConfig { bind, ..ServeConfig::default() })
}

#[test]
fn a_unix_socket_and_its_file() {
    let path = directory("socket").join("metrics.sock");
    let server = unix(&path).unwrap();
    assert_eq!(server.address().unwrap(), &Address::Unix(path.clone()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(ask(UnixStream::connect(&path).unwrap(), "GET /").contains("200 OK"));
    let error = unix(&path).unwrap_err().to_string();
    assert!(error.contains("another server listens there"), "{error}");
    assert!(ask(UnixStream::connect(&path).unwrap(), "GET /").contains("200 OK"));
    server.shutdown().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let directory = directory("stale");
    let stale = directory.join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let server = unix(&stale).unwrap();
    assert!(ask(UnixStream::connect(&stale).unwrap(), "GET /").contains("200 OK"));

    let file = directory.join("notes.txt");
    std::fs::write(&file, "keep me").unwrap();
    let error = unix(&file).unwrap_err().to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep me");

    // Another server's file in the same place is not this server's to remove.
    std::fs::remove_file(&stale).unwrap();
    let other = UnixListener::bind(&stale).unwrap();
    drop(server);
    assert!(stale.exists());
    drop(other);
}
