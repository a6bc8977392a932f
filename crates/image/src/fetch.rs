//! What is at an address, as `ADD` of a Dockerfile wants it.

use std::{fs::File, io};

use ureq::Agent;

use crate::{Digest, Error, Patience, Result, digest::Hashed};

/// Fetches what is at an address of http or https into a file without a name, and says its digest. A
/// checksum is what that has to be. Where the address leads elsewhere, that is followed.
///
/// # Errors
/// [`Error::Fetch`] with what the server said, or that the content is not what it has to be.
pub fn fetch(
    address: &str,
    checksum: Option<&Digest>,
    patience: Patience,
) -> Result<(File, Digest)> {
    let failed = |reason: String| Error::Fetch { reason };
    let stall = Some(patience.stall);
    let agent = Agent::config_builder()
        .timeout_resolve(stall)
        .timeout_connect(stall)
        .timeout_per_read(stall)
        .user_agent(concat!("crumble/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let answer = agent.get(address).call();
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    let mut body = answer.into_body().into_reader();
    let copied = tempfile::tempfile().and_then(|file| {
        let mut output = Hashed::new(&file);
        io::copy(&mut body, &mut output)?;
        let digest = output.digest();
        Ok((file, digest))
    });
    let (file, digest) = copied.map_err(|error| failed(error.to_string()))?;
    match checksum {
        Some(checksum) if *checksum != digest => {
            Err(failed(format!("it is {digest} and not {checksum}")))
        }
        _ => Ok((file, digest)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Seek as _, Write as _},
        net::TcpListener,
        thread,
        time::Duration,
    };

    use super::*;

    /// The address of a server that gives these answers, one after the other.
    fn server(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn hasty() -> Patience {
        Patience {
            stall: Duration::from_secs(1),
            ..Patience::default()
        }
    }

    fn refusal(address: &str, checksum: Option<&Digest>) -> String {
        fetch(address, checksum, hasty()).unwrap_err().to_string()
    }

    #[test]
    fn content_is_what_the_checksum_says_wherever_it_is() {
        let content = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nword";
        let moved = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\
                     Connection: close\r\n\r\n";
        let address = server(vec![content, moved, content, content]);
        let expected = Digest::of(b"word");
        for checksum in [None, Some(&expected)] {
            let (mut file, digest) = fetch(&address, checksum, hasty()).unwrap();
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), digest), ("word", expected));
        }
        let text = refusal(&address, Some(&Digest::of(b"other")));
        assert!(text.contains("and not sha256:"), "{text}");
    }

    #[test]
    fn what_is_not_whole_or_not_there_is_an_error() {
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nword";
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let address = server(vec![short, missing, "nonsense"]);
        refusal(&address, None);
        let text = refusal(&address, None);
        assert!(text.contains("404"), "{text}");
        refusal(&address, None);
    }
}
