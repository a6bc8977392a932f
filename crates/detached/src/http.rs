//! HTTP/1.1 (RFC 9112) as far as a socket of one's own needs it: a request and an answer a
//! connection, bodies with a length, and connections that become streams (RFC 9110, section 7.8).

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// What a head may have, in bytes.
const HEAD: usize = 8192;

/// Lines in a head.
const FIELDS: usize = 32;

/// What a body may have, in bytes.
pub(crate) const BODY: usize = 1 << 20;

/// How long the other side has for what it has begun to send.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// What the connection is to become.
    pub(crate) upgrade: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) const fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, body }
    }
}

/// Reads a request.
pub(crate) fn read_request(mut stream: &UnixStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(&head).map_err(invalid)?;
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else {
        return Err(invalid("a request without a path"));
    };
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        upgrade: field(parsed.headers, "Upgrade")?.map(str::to_owned),
        body: Vec::new(),
    };
    if field(parsed.headers, "Transfer-Encoding")?.is_some() {
        return Err(invalid("a body in chunks; send it with a Content-Length"));
    }
    let length = length(parsed.headers)?.unwrap_or(0);
    request.body = read_body(&mut stream, length)?;
    stream.set_read_timeout(None)?;
    Ok(request)
}

/// Sends an answer, which is the last thing on the connection.
pub(crate) fn respond(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let reason = match response.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        426 => "Upgrade Required",
        _ => "Internal Server Error",
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    let kind = match response.body.first() {
        Some(b'{') => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
        Connection: close\r\n\r\n",
        response.status,
        response.body.len()
    );
    stream.write_all(&[head.as_bytes(), &response.body].concat())
}

/// Says that the connection is another protocol's now.
pub(crate) fn switch(mut stream: &UnixStream, protocol: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())
}

/// Asks for something, and waits for the answer without a limit.
pub(crate) fn ask(
    mut stream: &UnixStream,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<Response> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: crumble\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    read_response(stream)
}

/// Asks that the connection become another protocol's: none if it does, else the answer.
pub(crate) fn upgrade(
    mut stream: &UnixStream,
    path: &str,
    protocol: &str,
) -> io::Result<Option<Response>> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: crumble\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let response = read_response(stream)?;
    Ok((response.status != 101).then_some(response))
}

fn read_response(mut stream: &UnixStream) -> io::Result<Response> {
    let head = read_head(&mut stream)?;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed.parse(&head).map_err(invalid)?;
    let status = parsed.code.unwrap_or_default();
    let length = match (status, length(parsed.headers)?) {
        (101, _) => 0,
        (_, Some(length)) => length,
        (_, None) => return Err(invalid("an answer without a length")),
    };
    let body = read_body(&mut stream, length)?;
    Ok(Response { status, body })
}

/// Reads to the empty line and not beyond it: what follows may be another protocol's.
fn read_head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
        if head.len() > HEAD {
            return Err(invalid("a head of more than 8 KiB"));
        }
    }
    Ok(head)
}

fn read_body(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    if length > BODY {
        return Err(invalid("a body of more than 1 MiB"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn length(fields: &[httparse::Header<'_>]) -> io::Result<Option<usize>> {
    let text = field(fields, "Content-Length")?;
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

fn field<'h>(fields: &[httparse::Header<'h>], name: &str) -> io::Result<Option<&'h str>> {
    let found = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(name));
    let value = found.map(|field| str::from_utf8(field.value)).transpose();
    value.map_err(invalid)
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn received(bytes: &[u8]) -> io::Result<Request> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(bytes).unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        read_request(&theirs)
    }

    #[test]
    fn a_request_has_a_path_and_a_body_of_its_length() {
        let request =
            received(b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcdef");
        let request = request.unwrap();
        assert_eq!((&*request.method, &*request.path), ("POST", "/v1/stop"));
        assert_eq!((&*request.body, request.upgrade), (&b"abc"[..], None));
    }

    #[test]
    fn nonsense_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(HEAD));
        for bytes in [
            "",
            "GET",
            "GET / HTTP/1.1\r\n",
            "\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
            "GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &long,
        ] {
            assert!(received(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }

    #[test]
    fn what_follows_an_upgrade_is_not_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let request = read_request(&theirs).unwrap();
            assert_eq!(request.upgrade.as_deref(), Some("other"));
            switch(&theirs, "other").unwrap();
            (&theirs).write_all(b"hello").unwrap();
        });
        assert_eq!(upgrade(&ours, "/", "other").unwrap(), None);
        server.join().unwrap();
        let mut rest = String::new();
        (&ours).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello");
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
            let _ = received(&bytes);
            let _ = received(&[b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat());
        }

        #[test]
        fn an_answer_is_what_was_sent(status in 200..600_u16, body in vec(any::<u8>(), 0..5000)) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let sent = Response::new(status, body);
            respond(&theirs, &sent).unwrap();
            prop_assert_eq!(read_response(&ours).unwrap(), sent);
        }
    }
}
