//! What a guest changed, without a machine: an agent in this process, a directory for the upper one.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use agent::serve::Agent;
use agent_client::{Client, Error};

fn client(agent: Agent) -> Client {
    Client::new(move |_| {
        let (ours, theirs) = UnixStream::pair()?;
        agent.serve(theirs)?;
        Ok(ours)
    })
}

#[test]
fn what_was_changed_arrives_in_pieces_and_is_whole() {
    let upper = tempfile::tempdir().unwrap();
    // More than one piece, and no multiple of one.
    let content: Vec<u8> = (0..1_000_003_u32).map(|at| at.to_le_bytes()[1]).collect();
    let agent = Agent::with_upper(OwnedFd::from(File::open(&upper).unwrap()));
    fs::write(upper.path().join("file"), &content).unwrap();
    let mut layer = Vec::new();
    client(agent).changes(&mut layer).unwrap();
    // A header, the content in blocks, and two blocks of zeroes.
    assert_eq!(layer.len(), 512 + content.len().div_ceil(512) * 512 + 1024);
    assert!(layer[512..].starts_with(&content));
}

#[test]
fn a_root_that_keeps_no_changes_apart_says_so() {
    let error = client(Agent::new()).changes(Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }));
    assert!(error.to_string().contains("not an overlay"), "{error}");
}
