//! From a request to its answer. No socket, no thread: a function of the registry.
//!
//! Answers as `prometheus_client`'s server does where that is right: every path has the page, but
//! for those of other pages, and a browser's `/favicon.ico` is empty.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderName, HeaderValue, VARY,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::config::{LivePage, Scrape, ScrapeObserver, ServeConfig, StaticPage};
use super::encoding::Coding;
use crate::clock::{Clock, seconds_between};
use crate::fork;
use crate::metrics::{Exposition, Format, Registry, Selection, encode_bytes};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers requests from a registry.
#[derive(Debug)]
pub(super) struct Answerer {
    registry: Arc<Registry>,
    path: Option<String>,
    pages: Vec<StaticPage>,
    live_pages: Vec<LivePage>,
    profile: Option<String>,
    compress_min_bytes: usize,
    observer: Arc<dyn ScrapeObserver>,
    clock: Arc<dyn Clock>,
}

impl Answerer {
    pub(super) fn new(registry: Arc<Registry>, config: &ServeConfig) -> Self {
        Self {
            registry,
            path: config.path.clone(),
            pages: config.pages.clone(),
            live_pages: config.live_pages.clone(),
            profile: config.profile.clone(),
            compress_min_bytes: config.limits.compress_min_bytes,
            observer: Arc::clone(&config.observer),
            clock: Arc::clone(&config.clock),
        }
    }

    /// The answer to a request, whose body is of no interest. That of a HEAD has the page's length
    /// and its body too, which the HTTP library does not send.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        match *request.method() {
            Method::OPTIONS => with(plain(StatusCode::OK, ""), ALLOW, METHODS),
            Method::GET | Method::HEAD => self.get(request),
            ref other => {
                let text = format!("{other} is not answered here; GET, HEAD and OPTIONS are\n");
                with(plain(StatusCode::METHOD_NOT_ALLOWED, text), ALLOW, METHODS)
            }
        }
    }

    fn get<B>(&self, request: &Request<B>) -> Answer {
        let asked = request.uri().path();
        if let Some(page) = self.pages.iter().find(|page| page.path == asked) {
            return unchanging(page);
        }
        if let Some(page) = self.live_pages.iter().find(|page| page.path == asked) {
            let content_type = HeaderValue::from_static(page.content_type);
            return sized(StatusCode::OK, (page.body)(), content_type);
        }
        match &self.path {
            Some(path) if path != asked => {
                let text = format!("no page at {asked}; the metrics are at {path}\n");
                plain(StatusCode::NOT_FOUND, text)
            }
            None if asked == "/favicon.ico" => plain(StatusCode::OK, ""),
            // A collector that panics must cost a scrape, not the server.
            _ => catch_unwind(AssertUnwindSafe(|| self.page(request))).unwrap_or_else(|_| {
                let text = "a collector failed; its message is in the service's standard error\n";
                plain(StatusCode::INTERNAL_SERVER_ERROR, text)
            }),
        }
    }

    fn page<B>(&self, request: &Request<B>) -> Answer {
        let start = self.clock.now();
        let accept = joined(request.headers(), &ACCEPT);
        let exposition = Exposition::negotiate(&accept, &Format::ALL);
        let asked = Asked::of(request.uri().query().unwrap_or_default());
        let profile = asked.profile.as_deref().or(self.profile.as_deref());
        if let Some(error) = profile.and_then(|name| self.registry.check_profile(name).err()) {
            return plain(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        let page = {
            let _pass = fork::pass();
            let names: Vec<&str> = asked.names.iter().map(AsRef::as_ref).collect();
            let names = (!names.is_empty()).then_some(&*names);
            encode_bytes(&self.registry, Selection { names, profile }, exposition)
        };
        let page = Bytes::from(page);
        let page_bytes = page.len();
        let accepted = joined(request.headers(), &ACCEPT_ENCODING);
        let coding = Coding::choose(&accepted, &Coding::ALL)
            .filter(|_| page_bytes >= self.compress_min_bytes);
        let body = coding.map_or(page.clone(), |coding| coding.compress(&page).into());
        let sent_bytes = body.len();
        let content_type = HeaderValue::from_str(&exposition.content_type())
            .expect("content types are of visible ASCII");
        let mut answer = sized(StatusCode::OK, body, content_type);
        if let Some(coding) = coding {
            answer = with(answer, CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        }
        let seconds = seconds_between(start, self.clock.now());
        let format = exposition.format;
        self.observer.scraped(&Scrape { seconds, page_bytes, sent_bytes, format });
        with(answer, VARY, HeaderValue::from_static("Accept, Accept-Encoding"))
    }
}

/// What a query asks for.
#[derive(Default)]
struct Asked<'a> {
    names: Vec<Cow<'a, str>>,
    profile: Option<Cow<'a, str>>,
}

impl<'a> Asked<'a> {
    fn of(query: &'a str) -> Self {
        let mut asked = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "name[]" => asked.names.push(value),
                "profile" => asked.profile = Some(value),
                _ => {}
            }
        }
        asked
    }
}

/// All values of a header as one list, as if they had been sent in one line.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    sized(status, text.into(), HeaderValue::from_static("text/plain; charset=utf-8"))
}

fn unchanging(page: &StaticPage) -> Answer {
    let mut answer = plain(StatusCode::OK, page.body.clone());
    for (name, value) in &page.headers {
        let header = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = header {
            answer = with(answer, name, value);
        }
    }
    answer
}

fn sized(status: StatusCode, body: Bytes, content_type: HeaderValue) -> Answer {
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer = with(answer, CONTENT_TYPE, content_type);
    answer = with(answer, CONTENT_LENGTH, length);
    with(answer, CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::ManualClock;
    use crate::metrics::{Desc, Family, Kind, Sink, Source};

    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<Scrape>>);

    impl ScrapeObserver for Notes {
        fn scraped(&self, scrape: &Scrape) {
            self.0.lock().push(*scrape);
        }
    }

    fn answerer(config: &ServeConfig) -> Answerer {
        let registry = Arc::new(Registry::default());
        let desc = Desc::new(Kind::Counter, "jobs", &"Jobs done. ".repeat(200), &[]).unwrap();
        Family::register(desc, &registry).unwrap().series::<&str>(&[]).add(2.0);
        Answerer::new(registry, config)
    }

    fn ask(answerer: &Answerer, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answerer.answer(&request.body(()).unwrap())
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
        answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn every_path_has_the_page_unless_one_is_chosen() {
        let all = answerer(&ServeConfig::default());
        for path in ["/", "/metrics", "/a/b?name=c"] {
            assert_eq!(ask(&all, "GET", path, &[]).status(), 200, "{path}");
        }
        assert_eq!(header(&ask(&all, "GET", "/favicon.ico", &[]), "content-length"), "0");
        let path = Some("/metrics".to_owned());
        let one = answerer(&ServeConfig { path, ..ServeConfig::default() });
        assert_eq!(ask(&one, "GET", "/metrics?x=1", &[]).status(), 200);
        assert_eq!(ask(&one, "GET", "/", &[]).status(), 404);
    }

    #[test]
    fn a_live_page_is_made_anew_for_every_answer() {
        let count = std::sync::atomic::AtomicU8::new(b'1');
        let next = move || vec![count.fetch_add(1, std::sync::atomic::Ordering::Relaxed)].into();
        let page =
            LivePage { path: "/sd".into(), content_type: "text/plain", body: Arc::new(next) };
        let answerer = answerer(&ServeConfig { live_pages: vec![page], ..ServeConfig::default() });
        for _ in 0..2 {
            assert_eq!(header(&ask(&answerer, "GET", "/sd", &[]), "content-length"), "1");
        }
        let body = (answerer.live_pages[0].body)();
        assert_eq!(&*body, b"3");
    }

    #[test]
    fn other_pages_have_their_paths_and_headers() {
        let headers = vec![("Content-Type".to_owned(), "text/html".to_owned())];
        let page = StaticPage { path: "/about".into(), headers, body: "<p>".into() };
        for path in [None, Some("/metrics".to_owned())] {
            let config = ServeConfig { path, pages: vec![page.clone()], ..ServeConfig::default() };
            let answerer = answerer(&config);
            let answer = ask(&answerer, "GET", "/about?x=1", &[]);
            assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "3"));
            assert_eq!(header(&answer, "content-type"), "text/html");
            assert_eq!(header(&ask(&answerer, "HEAD", "/about", &[]), "content-length"), "3");
            assert_eq!(ask(&answerer, "POST", "/about", &[]).status(), 405);
            let metrics = ask(&answerer, "GET", "/metrics", &[]);
            assert!(header(&metrics, "content-type").starts_with("text/plain"));
        }
    }

    #[test]
    fn a_method_that_changes_things_is_refused() {
        let answerer = answerer(&ServeConfig::default());
        for (method, status) in [("POST", 405), ("DELETE", 405), ("BREW", 405), ("OPTIONS", 200)] {
            let answer = ask(&answerer, method, "/metrics", &[]);
            assert_eq!(answer.status(), status, "{method}");
            assert_eq!(header(&answer, "allow"), "GET, HEAD, OPTIONS");
        }
    }

    #[test]
    fn accept_headers_of_several_lines_count_as_one() {
        let lines = [("accept", "text/plain;q=0.1"), ("accept", "application/openmetrics-text")];
        let answer = ask(&answerer(&ServeConfig::default()), "GET", "/", &lines);
        assert_eq!(header(&answer, "content-type"), Format::OpenMetrics1.content_type());
        assert_eq!(header(&answer, "cache-control"), "no-store");
    }

    #[test]
    fn the_observer_hears_of_size_and_time() {
        let notes = Arc::new(Notes::default());
        let clock = Arc::new(ManualClock::default());
        let config = ServeConfig { observer: notes.clone(), clock, ..ServeConfig::default() };
        let answerer = answerer(&config);
        ask(&answerer, "GET", "/", &[("accept-encoding", "gzip")]);
        ask(&answerer, "HEAD", "/", &[]);
        ask(&answerer, "POST", "/", &[]);
        let notes = notes.0.lock();
        assert_eq!(notes.len(), 2);
        assert!(notes[0].sent_bytes < notes[0].page_bytes);
        assert_eq!(notes[1].sent_bytes, notes[0].page_bytes);
    }

    #[test]
    fn a_profile_is_chosen_by_the_query_before_the_configuration() {
        let gauge = |name| Desc::new(Kind::Gauge, name, "", &[]).unwrap();
        let profile = Some("a".to_owned());
        let answerer = answerer(&ServeConfig { profile, ..ServeConfig::default() });
        assert_eq!(ask(&answerer, "GET", "/", &[]).status(), 400);
        for profile in ["a", "b"] {
            let family = Family::new(gauge(profile), crate::metrics::Options::default());
            answerer.registry.register_in(profile, family).unwrap();
        }
        let length = |uri| header(&ask(&answerer, "GET", uri, &[]), "content-length").to_owned();
        assert_eq!(length("/?name[]=a"), length("/?name[]=b&profile=b"));
        assert_eq!(length("/?name[]=b"), "0");
        assert_eq!(ask(&answerer, "GET", "/?profile=c", &[]).status(), 400);
    }

    #[test]
    fn a_panic_in_a_collector_is_an_answer() {
        struct Broken;
        impl Source for Broken {
            fn describe(&self) -> Vec<&Desc> {
                Vec::new()
            }
            fn collect(&self, _: &mut dyn Sink) {
                panic!("on purpose");
            }
        }
        let answerer = answerer(&ServeConfig::default());
        answerer.registry.register(Arc::new(Broken)).unwrap();
        assert_eq!(ask(&answerer, "GET", "/", &[]).status(), 500);
    }
}
