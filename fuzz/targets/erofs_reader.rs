//! An image that somebody made up. Reading it ends.
#![no_main]

use std::io::Read;

use erofs::{Follow, Reader, View, seal};
use libfuzzer_sys::fuzz_target;

/// Looks at what is not too deep, and not too much.
fn look(reader: &Reader<&[u8]>) {
    let mut pending = vec![(0, reader.root())];
    let mut left = 1000;
    while let Some((depth, inode)) = pending.pop() {
        let _ = (
            reader.xattrs(&inode),
            reader.target(&inode),
            reader.is_opaque(&inode),
        );
        let mut contents = reader.contents(&inode).take(1 << 16);
        let _ = std::io::copy(&mut contents, &mut std::io::sink());
        let _ = reader.read(&inode, inode.size() / 2, &mut [0; 64]);
        for entry in reader.entries(&inode) {
            left -= 1;
            let Ok(entry) = entry else { break };
            assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
            if left <= 0 {
                return;
            }
            if depth < 8
                && let Ok(child) = reader.inode(entry.number)
            {
                pending.push((depth + 1, child));
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut image = data.to_vec();
    seal(&mut image);
    if let Ok(reader) = Reader::open(&image[..]) {
        look(&reader);
    }
    let layers: Vec<_> = [&image[..], &image]
        .map(Reader::open)
        .into_iter()
        .flatten()
        .collect();
    let view = View::new(layers);
    for path in [&b"a/../b"[..], b"d/small", b"link/x"] {
        let _ = view.resolve(path, Follow::Yes);
    }
    if let Ok(root) = view.root() {
        let _ = view.names(&root);
    }
});
