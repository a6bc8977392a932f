//! A back end without manners: a thread that answers each request as a test likes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

/// vhost-user request numbers.
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const GET_CONFIG: u32 = 24;

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// As a correct device with two queues and an 8-byte config space would.
    Correctly,
    /// A reply with this body.
    Body(Vec<u8>),
    /// These bytes, header and all.
    Raw(Vec<u8>),
    /// Nothing, and read no more.
    Silence,
    /// Close the connection.
    HangUp,
}

/// Starts one; returns the front end's end.
pub(crate) fn start(mut answer: impl FnMut(u32) -> Answer + Send + 'static) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut header = [0; 12];
        while theirs.read_exact(&mut header).is_ok() {
            let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let mut body = vec![0; word(8) as usize];
            if theirs.read_exact(&mut body).is_err() {
                return;
            }
            let request = word(0);
            let bytes = match answer(request) {
                Answer::Correctly => reply(request, correct(request, word(4), &body)),
                Answer::Body(body) => reply(request, Some(body)),
                Answer::Raw(bytes) => bytes,
                Answer::Silence => {
                    // Ends when the front end closes its half.
                    let _ = theirs.read_to_end(&mut Vec::new());
                    return;
                }
                Answer::HangUp => return,
            };
            if theirs.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    ours
}

fn reply(request: u32, body: Option<Vec<u8>>) -> Vec<u8> {
    let Some(body) = body else { return Vec::new() };
    let len = u32::try_from(body.len()).unwrap();
    let header = [request, 5, len].map(u32::to_le_bytes).concat();
    [header, body].concat()
}

fn correct(request: u32, flags: u32, body: &[u8]) -> Option<Vec<u8>> {
    let number = |value: u64| Some(value.to_le_bytes().to_vec());
    match request {
        GET_FEATURES => number(crate::echo::FEATURES),
        // MQ, REPLY_ACK, CONFIG.
        GET_PROTOCOL_FEATURES => number(1 | 1 << 3 | 1 << 9),
        GET_QUEUE_NUM => number(2),
        GET_CONFIG => Some(body.to_vec()),
        // GET_VRING_BASE.
        11 => Some(body.to_vec()),
        _ if flags & 8 != 0 => number(0),
        _ => None,
    }
}
