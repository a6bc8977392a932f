use std::{io::Write, os::unix::ffi::OsStrExt, path::PathBuf};

use build::{Built, Kind};

use crate::fake::{Directory, Fake, Files, built, options, worker};

fn files(dockerfile: &str, context: &[(&str, &str)]) -> Files {
    let (built, worker) = built(dockerfile, context);
    worker.files(&built.layers)
}

/// The paths in the last layer.
fn last_layer(built: &Built, worker: &Fake) -> Vec<PathBuf> {
    let bytes = &worker.layers[built.layers.last().unwrap()];
    let mut archive = tar::Archive::new(&bytes[..]);
    let members = archive.entries().unwrap();
    members
        .map(|member| member.unwrap().path().unwrap().into_owned())
        .collect()
}

#[test]
fn destinations_are_files_or_directories_as_they_are_written() {
    let context = [
        ("a", "A"),
        ("b1", "B1"),
        ("b2", "B2"),
        ("dir/x", "X"),
        ("dir/in/y", "Y"),
    ];
    let files = files(
        "FROM base\nWORKDIR /w\nCOPY a new\nCOPY a sub/\nCOPY a /usr\nCOPY dir /d\nCOPY b? /many/\nCOPY a b1 .\n\
         COPY dir/ /usr/lib\nCOPY [\"a\", \"/with space\"]\nCOPY */x /glob/",
        &context,
    );
    assert_eq!(files.text("w/new"), "A");
    assert_eq!(files.text("w/sub/a"), "A");
    assert_eq!(files.text("usr/a"), "A");
    assert_eq!(files.text("d/x"), "X");
    assert_eq!(files.text("d/in/y"), "Y");
    assert_eq!(files.text("many/b1"), "B1");
    assert_eq!(files.text("many/b2"), "B2");
    assert_eq!(files.text("w/b1"), "B1");
    assert_eq!(files.text("usr/lib/in/y"), "Y");
    assert_eq!(files.text("usr/lib/libc"), "libc");
    assert_eq!(files.text("with space"), "A");
    assert_eq!(files.text("glob/x"), "X");
}

#[test]
fn what_is_excluded_is_not_copied() {
    let context = [
        ("a.txt", "A"),
        ("b.md", "B"),
        ("d/x.txt", "X"),
        ("d/y", "Y"),
        ("d/in/z.txt", "Z"),
        ("d/in/w", "W"),
        ("d/out/v", "V"),
    ];
    let files = files(
        "FROM scratch\nARG WHAT=out\nCOPY --exclude=*.md --exclude=d . /all/\n\
         COPY --exclude=**/*.txt --exclude=$WHAT d /d/\nCOPY --exclude=a* *.* /none/",
        &context,
    );
    assert_eq!(files.text("all/a.txt"), "A");
    assert_eq!(files.text("d/in/w"), "W");
    assert_eq!(files.text("d/y"), "Y");
    assert_eq!(files.text("none/b.md"), "B");
    for left in [
        "all/b.md",
        "all/d",
        "d/x.txt",
        "d/in/z.txt",
        "d/out",
        "none/a.txt",
    ] {
        assert!(!files.has(left), "{left}");
    }
}

#[test]
fn directories_above_go_along_from_the_pivot_on() {
    let context = [("x/a/one", "1"), ("x/b/one", "2"), ("x/b/sub/two", "3")];
    let files = files(
        "FROM scratch\nCOPY --parents x/*/one /all\nCOPY --parents ./x/./b /cut/\n\
         COPY --parents=false x/a/one /flat/",
        &context,
    );
    assert_eq!(files.text("all/x/a/one"), "1");
    assert_eq!(files.text("all/x/b/one"), "2");
    assert_eq!(files.text("cut/b/one"), "2");
    assert_eq!(files.text("cut/b/sub/two"), "3");
    assert_eq!(files.text("flat/one"), "1");
}

#[test]
fn links_at_the_destination_are_followed_within_the_image() {
    let (built, worker) = built(
        "FROM base\nCOPY a /lib/\nCOPY a /out/passwd\nCOPY a /out/../x",
        &[("a", "A")],
    );
    let files = worker.files(&built.layers);
    assert_eq!(files.text("usr/lib/a"), "A");
    assert_eq!(files.text("etc/passwd"), "A");
    assert_eq!(files.text("x"), "A");
    assert_eq!(files.at("lib").kind, Kind::Symlink("usr/lib".into()));
}

#[test]
fn links_in_the_context_are_copied_and_lead_nowhere_else() {
    let context = [
        ("d/real", "R"),
        ("d/link", "-> real"),
        ("d/abs", "-> /etc/hostname"),
        ("top", "-> d/real"),
    ];
    let files = files("FROM scratch\nCOPY d /d\nCOPY top /t\n", &context);
    assert_eq!(files.at("d/link").kind, Kind::Symlink("real".into()));
    assert_eq!(
        files.at("d/abs").kind,
        Kind::Symlink("/etc/hostname".into())
    );
    assert_eq!(files.text("t"), "R");
    // `/etc` of the context, which is not there.
    let message = crate::fake::refused("FROM scratch\nCOPY d/abs /t", &context);
    assert!(
        message.contains("\"d/abs\" is not in the context"),
        "{message}"
    );
}

#[test]
fn owners_and_permissions_are_as_asked_for() {
    let directory = Directory::new(&[("a", "A"), ("d/b", "B")]);
    directory.mode("a", 0o640);
    let text = "FROM base\nARG WHO=app\nCOPY a /plain\nCOPY --chown=app a /user\nCOPY --chown=$WHO:staff a /named\n\
        COPY --chown=7 a /number\nCOPY --chown=7:8 --chmod=4755 d /new/d\nCOPY --chmod=u+x,go= a /letters\n\
        USER app\nWORKDIR /home/app\nRUN put /r r\nCOPY --from=base /etc/group /kept";
    directory.write("Dockerfile", text.as_bytes());
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    let files = worker.files(&built.layers);
    let of = |path: &str| {
        let entry = files.at(path);
        (entry.uid, entry.gid, entry.mode)
    };
    assert_eq!(of("plain"), (0, 0, 0o640));
    assert_eq!(of("user"), (10, 20, 0o640));
    assert_eq!(of("named"), (10, 50, 0o640));
    assert_eq!(of("number"), (7, 7, 0o640));
    assert_eq!(of("new"), (7, 8, 0o755));
    assert_eq!(of("new/d"), (7, 8, 0o4755));
    assert_eq!(of("new/d/b"), (7, 8, 0o4755));
    assert_eq!(of("letters"), (0, 0, 0o700));
    assert_eq!(of("home/app"), (10, 20, 0o755));
    assert_eq!(of("kept"), (0, 0, 0o644));
}

#[test]
fn a_layer_has_what_is_copied_in_order_below_the_directories_of_the_image() {
    let directory = Directory::new(&[("d/b", "B"), ("d/a/z", "Z"), ("d/a/b", "B")]);
    directory.write("Dockerfile", b"FROM base\nCOPY d /usr/lib/x/");
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    let paths = [
        "usr",
        "usr/lib",
        "usr/lib/x",
        "usr/lib/x/a",
        "usr/lib/x/a/b",
        "usr/lib/x/a/z",
        "usr/lib/x/b",
    ];
    assert_eq!(last_layer(&built, &worker), paths.map(PathBuf::from));
    let again = directory
        .build(&mut crate::fake::worker(), &options(&[]))
        .unwrap();
    assert_eq!(built.layers, again.layers);
}

#[test]
fn here_documents_are_files() {
    let files = files(
        "FROM base\nENV x=1\nCOPY <<EOF /a.txt\n$x \\$x 'y'\nEOF\nCOPY <<'one' <<two plain /d/\n$x\none\nT\ntwo\n\
         COPY --chmod=755 <<-\"E\" /c\n\tt\n\tE\n",
        &[("plain", "P")],
    );
    assert_eq!(files.text("a.txt"), "1 $x 'y'\n");
    assert_eq!(files.text("d/one"), "$x\n");
    assert_eq!(files.text("d/two"), "T\n");
    assert_eq!(files.text("d/plain"), "P");
    assert_eq!((files.text("c"), files.at("c").mode), ("t\n", 0o755));
}

#[test]
fn what_dockerignore_hides_is_not_copied_but_what_it_brings_back_is() {
    let context = [
        (".dockerignore", "*\n!src/keep\n!top*\ntop2\n"),
        ("src/keep/f", "F"),
        ("src/drop/g", "G"),
        ("top1", "1"),
        ("top2", "2"),
    ];
    let files = files("FROM scratch\nCOPY . /", &context);
    let paths: Vec<_> = files.0.keys().filter_map(|path| path.to_str()).collect();
    assert_eq!(paths, ["", "src", "src/keep", "src/keep/f", "top1"]);
    let own = files_with_own_ignore();
    assert!(own.has("a") && !own.has("b"));
}

fn files_with_own_ignore() -> Files {
    let ignores = [
        (".dockerignore", "a"),
        ("Dockerfile.dockerignore", "b"),
        ("a", "A"),
        ("b", "B"),
    ];
    files("FROM scratch\nCOPY . /", &ignores)
}

fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o755);
    header.set_uid(3);
    archive
        .append_data(&mut header, "./lib/tool", &b"tools"[..])
        .unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    archive
        .append_link(&mut header, "hard", "lib/tool")
        .unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    archive
        .append_link(&mut header, "soft", "/lib/tool")
        .unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn archives_are_unpacked_by_add_whatever_compressed_them() {
    let plain = archive();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut xz = Vec::new();
    lzma_rs::xz_compress(&mut &plain[..], &mut xz).unwrap();
    for bytes in [plain, gzip.clone(), zstd, xz] {
        let directory = Directory::new(&[(
            "Dockerfile",
            "FROM base\nADD x /\nADD x /new\nCOPY x /copied",
        )]);
        directory.write("x", &bytes);
        let mut worker = worker();
        let built = directory.build(&mut worker, &options(&[])).unwrap();
        let files = worker.files(&built.layers);
        assert_eq!(files.text("usr/lib/tool"), "tools");
        assert_eq!(files.at("usr/lib/tool").uid, 3);
        assert_eq!(files.text("hard"), "tools");
        assert_eq!(files.at("soft").kind, Kind::Symlink("/lib/tool".into()));
        assert_eq!(files.text("new/lib/tool"), "tools");
        assert_eq!(files.0[std::path::Path::new("copied")].1, bytes);
    }
    let directory = Directory::new(&[("Dockerfile", "FROM base\nADD x.gz /d/")]);
    directory.write("x.gz", &gzip[..20]);
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    assert_eq!(
        worker.files(&built.layers).0[std::path::Path::new("d/x.gz")].1,
        &gzip[..20]
    );
}

#[test]
fn attributes_long_names_and_devices_of_an_archive_are_kept() {
    let long = |name: &str| format!("{}/{name}", ["0123456789"; 15].join("/"));
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(1);
    let attribute = ("SCHILY.xattr.user.a", &b"value"[..]);
    archive.append_pax_extensions([attribute]).unwrap();
    archive
        .append_data(&mut header, long("file"), &b"x"[..])
        .unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive
        .append_link(&mut header, "link", long("file"))
        .unwrap();
    header.set_entry_type(tar::EntryType::Fifo);
    archive
        .append_data(&mut header, "pipe", std::io::empty())
        .unwrap();
    let directory = Directory::new(&[(
        "Dockerfile",
        "FROM base AS a\nADD x /\nFROM scratch\nCOPY --from=a /0123456789 /c",
    )]);
    directory.write("x", &archive.into_inner().unwrap());
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    let copied = long("file").replacen("0123456789", "c", 1);
    let files = worker.files(&built.layers);
    assert_eq!(
        files.at(&copied).xattrs,
        [("user.a".to_owned(), b"value".to_vec())]
    );

    let mut options = options(&[]);
    options.target = Some("a".to_owned());
    let unpacked = directory.build(&mut worker, &options).unwrap();
    let files = worker.files(&unpacked.layers);
    assert_eq!(files.at("link").kind, Kind::Symlink(long("file").into()));
    assert_eq!(files.at("pipe").kind, Kind::Other);
}

#[test]
fn names_that_are_no_text_are_copied_as_they_are() {
    let directory = Directory::new(&[("Dockerfile", "FROM scratch\nCOPY d/a? /")]);
    let name = std::ffi::OsStr::from_bytes(b"a\xff");
    std::fs::create_dir(directory.0.path().join("d")).unwrap();
    std::fs::write(directory.0.path().join("d").join(name), "x").unwrap();
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    assert!(
        worker
            .files(&built.layers)
            .0
            .contains_key(std::path::Path::new(name))
    );
}

#[test]
fn what_is_at_an_address_is_added_and_fetched_again_each_time() {
    let address = "https://example.org/a/tool.tar.gz?x=/y";
    let text = "FROM base\nARG AT=https://example.org/other\n\
                ADD https://example.org/a/tool.tar.gz?x=/y /d/\nADD --chmod=755 $AT /bin/it\n\
                ADD --checksum=good https://example.org/ /named";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    let files = worker.files(&built.layers);
    // Archives too are as they came.
    assert_eq!(files.text("d/tool.tar.gz"), address);
    assert_eq!(files.at("d/tool.tar.gz").mode & 0o7777, 0o600);
    assert_eq!(files.text("bin/it"), "https://example.org/other");
    assert_eq!(files.at("bin/it").mode & 0o7777, 0o755);
    assert_eq!(files.text("named"), "https://example.org/");
    // The same content is the same layer, other content is another.
    let stored = worker.stored;
    directory.build(&mut worker, &options(&[])).unwrap();
    assert_eq!(worker.stored, stored);
    let other = options(&[("AT", "https://example.org/new")]);
    let built = directory.build(&mut worker, &other).unwrap();
    let files = worker.files(&built.layers);
    assert_eq!(files.text("bin/it"), "https://example.org/new");
}

#[test]
fn what_cannot_be_added_from_an_address_is_named() {
    for (line, words) in [
        (
            "ADD --checksum=bad https://example.org/x /",
            "it is not bad",
        ),
        ("ADD https://example.org/ /", "file's name"),
        ("ADD git://example.org/x /", "RUN"),
        ("COPY https://example.org/x /", "ADD fetches"),
        ("COPY --checksum=good x /", "no flag --checksum"),
        ("ADD --checksum=good x /", "is no address"),
    ] {
        let directory = Directory::new(&[("Dockerfile", &format!("FROM base\n{line}"))]);
        let error = directory.build(&mut worker(), &options(&[])).unwrap_err();
        assert!(chain(&error).contains(words), "{line}: {}", chain(&error));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(|cause| format!("{cause}; ")).collect()
}
