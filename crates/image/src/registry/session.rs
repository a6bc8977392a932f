//! Talking to one registry: encryption, tokens, redirects, and what its answers mean.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use base64::Engine as _;
use serde::Deserialize;
use ureq::{
    Agent, Body, SendBody,
    http::{HeaderMap, Method, Response, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use super::{
    Credentials, Patience,
    challenge::{self, Bearer, Challenge},
    credentials::Login,
    retry::Failure,
    settings::Place,
};
use crate::{Error, text};

/// How often a registry may send us elsewhere.
const REDIRECTS: usize = 5;

/// How long a registry that may do without TLS has to show that it has it.
const PROBE: Duration = Duration::from_secs(5);

/// Bytes of a token's document, and of an error's, at most.
const WORDS_MAX: u64 = 256 << 10;

/// A registry, and what has been agreed with it.
pub(crate) struct Session<'a> {
    registry: String,
    insecure: bool,
    agent: Agent,
    scheme: OnceLock<&'static str>,
    /// By scope.
    authorizations: Mutex<BTreeMap<String, Authorization>>,
    credentials: &'a Credentials,
    patience: Patience,
}

/// What shows who asks.
#[derive(Clone)]
struct Authorization {
    header: String,
    /// Nobody in particular.
    anonymous: bool,
}

/// An answer, and whether the registry itself gave it.
struct Answer {
    response: Response<Body>,
    home: bool,
}

/// What is asked of a registry.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// A URL, or a path in the registry.
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Content<'a>,
    /// What may be done with the token.
    pub(crate) scope: &'a str,
    pub(crate) about: About<'a>,
}

/// What is sent.
pub(crate) enum Content<'a> {
    None,
    Bytes(&'a [u8]),
    /// A file of this size, from its beginning; and who looks on.
    File(&'a File, u64, &'a dyn Fn(u64)),
}

/// What it is about, for errors.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    /// The image's path in the registry.
    pub(crate) repository: &'a str,
    /// The thing.
    pub(crate) what: &'a str,
    /// `reading` or `writing`.
    pub(crate) action: &'static str,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(place: &Place, credentials: &'a Credentials, patience: Patience) -> Self {
        let Place {
            registry, insecure, ..
        } = place;
        let tls = TlsConfig::builder().disable_verification(*insecure);
        let tls = match &place.authorities {
            Some(authorities) => tls.root_certs(RootCerts::Specific(Arc::clone(authorities))),
            None => tls,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // We follow ourselves, to say who gets what.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(tls.build())
            .timeout_resolve(Some(patience.stall))
            .timeout_connect(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .user_agent(concat!("crumble/", env!("CARGO_PKG_VERSION")));
        let config = match is_loopback(registry) {
            true => config.proxy(None).build(),
            false => config.build(),
        };
        Self {
            registry: registry.to_owned(),
            insecure: *insecure,
            agent: config.new_agent(),
            scheme: OnceLock::new(),
            authorizations: Mutex::default(),
            credentials,
            patience,
        }
    }

    /// Asks. The answer is a success, or the one that says that a range is not there.
    pub(crate) fn call(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let target = match call.target.starts_with('/') {
            true => format!("{}{}", self.base(), call.target),
            false => call.target.to_owned(),
        };
        let mut authorization = self.known(call.scope);
        let mut answer = self.follow(call, &target, authorization.as_ref())?;
        // Nobody else is told who asks, whatever they want to see.
        if answer.response.status() == 401 && answer.home {
            authorization = match challenge(answer.response.headers()) {
                Some(challenge) => self.authorize(&challenge, call)?,
                None => None,
            };
            if authorization.is_some() {
                answer = self.follow(call, &target, authorization.as_ref())?;
            }
        }
        let anonymous = match authorization {
            Some(authorization) => authorization.anonymous,
            // Nobody, or somebody who was not believed.
            None if answer.response.status() == 401 => {
                matches!(self.credentials.of(&self.registry), Ok(None))
            }
            None => true,
        };
        self.judge(call, answer.response, anonymous)
    }

    /// Where its paths begin. One that may do without TLS is asked whether it has it.
    fn base(&self) -> String {
        let scheme = self.scheme.get_or_init(|| {
            let lax = self.insecure || is_loopback(&self.registry);
            if !lax {
                return "https";
            }
            let probe = self.agent.get(format!("https://{}/v2/", self.host()));
            match probe.config().timeout_global(Some(PROBE)).build().call() {
                Ok(_) => "https",
                Err(_) => "http",
            }
        });
        format!("{scheme}://{}", self.host())
    }

    /// Docker's registry is not where its name says.
    fn host(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        }
    }

    /// Sends it, and goes where the answer points. Only the registry itself learns who asks.
    fn follow(
        &self,
        call: &Call<'_>,
        target: &str,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, Failure> {
        let registry = self.address("/")?;
        let mut uri = self.uri(target)?;
        for _ in 0..=REDIRECTS {
            let home = uri.scheme() == registry.scheme() && uri.authority() == registry.authority();
            let header = authorization
                .filter(|_| home)
                .map(|known| known.header.as_str());
            let response = self.send(call, &uri, header)?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved || !matches!(call.method, Method::GET | Method::HEAD) {
                return Ok(Answer { response, home });
            }
            let location = response.headers().get(header::LOCATION);
            let location = location
                .and_then(|location| location.to_str().ok())
                .unwrap_or_default();
            let next = self.uri(&join(&uri, location))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(self
                    .malformed("it sends us to an address without encryption")
                    .into());
            }
            uri = next;
        }
        Err(self
            .malformed("it sends us from one address to the next")
            .into())
    }

    fn send(
        &self,
        call: &Call<'_>,
        uri: &Uri,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = ureq::http::Request::builder()
            .method(call.method.clone())
            .uri(uri);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let wrong = |error: ureq::http::Error| Error::Unreachable {
            registry: self.registry.clone(),
            source: error.into(),
        };
        let sent = match &call.body {
            // These have a length even if there is nothing.
            Content::None if matches!(call.method, Method::POST | Method::PUT) => {
                self.agent.run(request.body(&b""[..]).map_err(wrong)?)
            }
            Content::None => self.agent.run(request.body(()).map_err(wrong)?),
            Content::Bytes(bytes) => self.agent.run(request.body(*bytes).map_err(wrong)?),
            Content::File(file, size, watch) => {
                let mut reader = Watched { file, at: 0, watch };
                let request = request.header(header::CONTENT_LENGTH, *size);
                self.agent.run(
                    request
                        .body(SendBody::from_reader(&mut reader))
                        .map_err(wrong)?,
                )
            }
        };
        sent.map_err(|error| self.failure(error))
    }

    /// What was good for this scope before.
    fn known(&self, scope: &str) -> Option<Authorization> {
        let known = self
            .authorizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(scope).cloned()
    }

    /// Does what the registry wants to see, if it can be done.
    fn authorize(
        &self,
        challenge: &Challenge,
        call: &Call<'_>,
    ) -> Result<Option<Authorization>, Failure> {
        let login = self.credentials.of(&self.registry)?;
        let header = match (challenge, &login) {
            (Challenge::Basic, Some(Login::Password { user, password })) => {
                Some(basic(user, password))
            }
            (Challenge::Basic, _) => None,
            (Challenge::Bearer(bearer), login) => self
                .token(bearer, login.as_ref(), call)?
                .map(|token| format!("Bearer {token}")),
        };
        let authorization = header.map(|header| Authorization {
            header,
            anonymous: login.is_none(),
        });
        let mut known = self
            .authorizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &authorization {
            Some(good) => known.insert(call.scope.to_owned(), good.clone()),
            None => known.remove(call.scope),
        };
        Ok(authorization)
    }

    /// A token from where the registry says; `None` if it is refused.
    fn token(
        &self,
        bearer: &Bearer,
        login: Option<&Login>,
        call: &Call<'_>,
    ) -> Result<Option<String>, Failure> {
        let realm = self.uri(&bearer.realm)?;
        if self.base().starts_with("https") && realm.scheme_str() != Some("https") {
            return Err(self
                .malformed("it wants a password sent without encryption")
                .into());
        }
        let scope = bearer.scope.as_deref().unwrap_or(call.scope);
        let service = bearer.service.as_deref().unwrap_or(&self.registry);
        let query = form(&[("service", service), ("scope", scope)]);
        let mark = if bearer.realm.contains('?') { '&' } else { '?' };
        let address = format!("{}{mark}{query}", bearer.realm);
        let response = match login {
            None => self.agent.get(address).call(),
            Some(Login::Password { user, password }) => self
                .agent
                .get(address)
                .header(header::AUTHORIZATION, basic(user, password))
                .call(),
            Some(Login::Identity(token)) => {
                let rest = form(&[
                    ("grant_type", "refresh_token"),
                    ("client_id", "crumble"),
                    ("refresh_token", token),
                ]);
                let post = self.agent.post(&bearer.realm);
                post.content_type("application/x-www-form-urlencoded")
                    .send(format!("{query}&{rest}"))
            }
        };
        let response = response.map_err(|error| self.failure(error))?;
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            return Ok(None);
        }
        let mut response = self.judge(call, response, login.is_none())?;
        let words = words(response.body_mut());
        let token: Option<Token> = serde_json::from_slice(&words).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        match token.filter(|token| !token.is_empty()) {
            Some(token) => Ok(Some(token)),
            None => Err(self.malformed("the token that it sent for is none").into()),
        }
    }

    /// What an answer means.
    fn judge(
        &self,
        call: &Call<'_>,
        mut response: Response<Body>,
        anonymous: bool,
    ) -> Result<Response<Body>, Failure> {
        let status = response.status().as_u16();
        if (200..300).contains(&status) || status == 416 {
            return Ok(response);
        }
        let after = retry_after(response.headers());
        let said = said(&words(response.body_mut()));
        let About {
            repository,
            what,
            action,
        } = call.about;
        let registry = self.registry.clone();
        let repository = repository.to_owned();
        let error = match status {
            401 => Error::Unauthorized {
                registry,
                repository,
                who: if anonymous {
                    "anybody"
                } else {
                    "the user who is logged in"
                },
                said,
            },
            403 => Error::Forbidden {
                registry,
                action,
                repository,
                said,
            },
            404 => Error::NotFound {
                registry,
                what: what.to_owned(),
                said,
            },
            _ => Error::Status {
                registry,
                status,
                what: format!("{action} {what}"),
                said,
            },
        };
        match status {
            408 | 429 | 500..600 => Err(Failure::Again {
                error: Box::new(error),
                after,
                moved: false,
            }),
            _ => Err(error.into()),
        }
    }

    /// What it means that there is no answer.
    pub(crate) fn failure(&self, error: ureq::Error) -> Failure {
        let registry = self.registry.clone();
        if is_timeout(&error) {
            return Failure::again(Error::Stalled {
                registry,
                seconds: self.patience.stall.as_secs(),
            });
        }
        // What nobody mends by waiting: nobody is there, or nobody whom we trust.
        let hopeless = match &error {
            ureq::Error::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidData
            ),
            ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => false,
            _ => true,
        };
        let error = Error::Unreachable {
            registry,
            source: error.into(),
        };
        match hopeless {
            true => Failure::Final(error),
            false => Failure::again(error),
        }
    }

    /// What it means that an answer ends early.
    pub(crate) fn broken(&self, error: io::Error) -> Failure {
        self.failure(ureq::Error::from(error))
    }

    pub(crate) fn malformed(&self, reason: &str) -> Error {
        Error::malformed(format!("the answer of {}", self.registry), reason)
    }

    /// Where a path of the registry's is.
    pub(crate) fn address(&self, path: &str) -> Result<Uri, Error> {
        self.uri(&format!("{}{path}", self.base()))
    }

    fn uri(&self, text: &str) -> Result<Uri, Error> {
        let uri: Option<Uri> = text.parse().ok();
        let sound = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
        };
        let shown = text::shown(text);
        uri.filter(sound).ok_or_else(|| {
            self.malformed(&format!("it sends us to \"{shown}\", which is no address"))
        })
    }
}

/// The best of what the registry offers.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all(header::WWW_AUTHENTICATE).into_iter();
    let mut known: Vec<Challenge> = all
        .filter_map(|value| challenge::parse(value.to_str().ok()?))
        .collect();
    known.sort_by_key(|challenge| *challenge == Challenge::Basic);
    known.into_iter().next()
}

fn basic(user: &str, password: &str) -> String {
    let both = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(both)
    )
}

/// Pairs as in a query (WHATWG URL, 5.2).
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        let mark = if text.is_empty() { "" } else { "&" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{mark}{name}=");
        for byte in value.bytes() {
            let _ = match byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
                true => write!(text, "{}", char::from(byte)),
                false => write!(text, "%{byte:02X}"),
            };
        }
    }
    text
}

/// Where `location` is, seen from `base` (RFC 3986, 5.2, as far as servers use it).
pub(crate) fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base
        .authority()
        .map(|authority| authority.as_str())
        .unwrap_or_default();
    if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let directory = base
            .path()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    }
}

/// Seconds; those who send a date are asked again as others.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The beginning of a short answer.
fn words(body: &mut Body) -> Vec<u8> {
    let mut words = Vec::new();
    // What is missing of an error's words is no error of its own.
    let _ = body.as_reader().take(WORDS_MAX).read_to_end(&mut words);
    words
}

/// What an error says of itself, as the end of a sentence.
fn said(words: &[u8]) -> String {
    let refusal: Option<Refusal> = serde_json::from_slice(words).ok();
    let first = refusal.and_then(|refusal| refusal.errors.into_iter().next());
    let said = first.and_then(|word| word.message.filter(|said| !said.is_empty()).or(word.code));
    said.map(|said| format!(" (it says: {})", text::shown(&said)))
        .unwrap_or_default()
}

/// Whether it is this host itself: what is sent there passes no network.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn is_timeout(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => {
            let inner = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<ureq::Error>());
            error.kind() == io::ErrorKind::TimedOut || inner.is_some_and(is_timeout)
        }
        _ => false,
    }
}

/// A file that is sent, from its beginning, whoever else reads it.
struct Watched<'a> {
    file: &'a File,
    at: u64,
    watch: &'a dyn Fn(u64),
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at = self
            .at
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        (self.watch)(self.at);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_seen_from_where_it_was_given() {
        let base: Uri = "https://h:1/v2/x/blobs/uploads/".parse().unwrap();
        for (location, whole) in [
            ("https://other/y", "https://other/y"),
            ("//other/y", "https://other/y"),
            ("/y?z=1", "https://h:1/y?z=1"),
            ("y", "https://h:1/v2/x/blobs/uploads/y"),
        ] {
            assert_eq!(join(&base, location), whole);
        }
    }

    #[test]
    fn only_this_host_is_loopback() {
        for near in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(near), "{near}");
        }
        for far in [
            "docker.io",
            "localhost.example",
            "10.0.0.1:5000",
            "[2001:db8::1]",
        ] {
            assert!(!is_loopback(far), "{far}");
        }
    }

    #[test]
    fn what_is_sent_in_a_query_is_escaped() {
        let scope = "repository:a/b:pull,push";
        assert_eq!(
            form(&[("a", "x y"), ("scope", scope)]),
            "a=x%20y&scope=repository%3Aa%2Fb%3Apull%2Cpush"
        );
    }

    #[test]
    fn a_registry_s_words_are_quoted_if_it_has_any() {
        let words = br#"{"errors":[{"code":"DENIED","message":"no\u001b access"}]}"#;
        assert_eq!(said(words), " (it says: no  access)");
        assert_eq!(
            said(br#"{"errors":[{"code":"DENIED"}]}"#),
            " (it says: DENIED)"
        );
        for none in [&b""[..], b"<html>", br#"{"errors":[]}"#] {
            assert_eq!(said(none), "");
        }
    }
}
