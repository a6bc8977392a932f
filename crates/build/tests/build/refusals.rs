use crate::fake::{Directory, options, refused, worker};

#[test]
fn what_is_not_there_is_named_with_what_hides_it() {
    let context = [
        (".dockerignore", "# no\n*.log\n"),
        ("a.log", ""),
        ("b", ""),
        ("dir/c", ""),
    ];
    for (text, part) in [
        (
            "COPY none /",
            "Dockerfile:2: COPY: \"none\" is not in the context /",
        ),
        (
            "COPY a.log /",
            "\"a.log\" is hidden by .dockerignore, line 2, \"*.log\"; bring it back with !a.log",
        ),
        ("COPY *.txt /", "\"*.txt\" is not in the context"),
        ("COPY --from=base /none /", "\"/none\" is not in base"),
    ] {
        let message = refused(&format!("FROM base\n{text}"), &context);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn what_cannot_be_copied_is_refused_with_the_path() {
    let context = [
        ("a", ""),
        ("b", ""),
        ("d/libc/x", ""),
        ("w/.wh.x", ""),
        ("file/x", ""),
    ];
    for (text, part) in [
        (
            "COPY a b /c",
            "of several sources /c has to be a directory; end it with /",
        ),
        (
            "COPY ? /c",
            "several files are copied to /c, which is no directory; end it with /",
        ),
        (
            "COPY a /etc/passwd/x",
            "/etc/passwd is no directory in the image",
        ),
        (
            "COPY d /usr/lib",
            "/usr/lib/libc is no directory in the image, and one is copied to it",
        ),
        (
            "COPY d /etc/group",
            "/etc/group is no directory in the image",
        ),
        ("COPY w /", "a name with .wh. before it hides another one"),
        (
            "COPY --chown=nobody a /",
            "there is no user \"nobody\" in the image's /etc/passwd",
        ),
        (
            "COPY --chown=0:wheel a /",
            "there is no group \"wheel\" in the image's /etc/group",
        ),
        ("COPY --chmod=$NO a /", "--chmod= is no mode"),
        (
            "COPY $NO /",
            "\"$NO\" stands for nothing; it has to be a path",
        ),
        (
            "COPY --from=later a /",
            "cannot get the image later: no image later",
        ),
        (
            "RUN --mount=target=/x,source=none y",
            "\"/none\" is not in the context",
        ),
        (
            "WORKDIR /etc/passwd",
            "/etc/passwd is no directory in the image",
        ),
        (
            "ENV a=\"${b:?must be given}\"",
            "the variable b is not set: must be given",
        ),
        ("EXPOSE http", "\"http\" is no port"),
        ("USER $NO", "it has to be a user"),
        (
            "RUN fail",
            "Dockerfile:2: RUN: cannot run the command: exit code 7",
        ),
    ] {
        let message = refused(&format!("FROM base\n{text}"), &context);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn files_that_are_no_dockerfiles_are_refused() {
    for (text, part) in [
        ("", "it has no FROM; begin with FROM IMAGE"),
        ("ARG x=1", "it has no FROM"),
        (
            "RUN x\nFROM base",
            "Dockerfile:1: RUN: only ARG may be before the first FROM",
        ),
        (
            "FROM $x",
            "\"$x\" stands for nothing: give an ARG before the first FROM a value",
        ),
        (
            "FROM other",
            "Dockerfile:1: FROM: cannot get the image other: no image other",
        ),
        (
            "FROM base AS a\nFROM base AS A",
            "Dockerfile:2: FROM: another stage has this name",
        ),
        (
            "FROM base AS a\nFROM a AS b\nCOPY --from=b x y",
            "the stage b is not before this one; move it up",
        ),
    ] {
        let message = refused(text, &[]);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_missing_dockerfile_and_a_wrong_dockerignore_are_named() {
    let directory = Directory::new(&[]);
    let message = directory
        .build(&mut worker(), &options(&[]))
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with("Dockerfile: there is no such file; name the Dockerfile with -f"),
        "{message}"
    );
    let message = refused("FROM base", &[(".dockerignore", "a\n[")]);
    assert!(
        message.contains(".dockerignore: line 2: [ is no pattern"),
        "{message}"
    );
}

#[test]
fn archives_that_lead_out_or_hide_names_are_refused() {
    for (name, link, part) in [
        ("a/../../b", None, "/x has a path with .. in it"),
        ("a/.wh.b", None, "/a/.wh.b cannot be in an image"),
        (
            "a",
            Some("../b"),
            "/a is a hard link to what is not before it in the archive",
        ),
    ] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        // As it is, which `set_path` would refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Link);
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
        let directory = Directory::new(&[("Dockerfile", "FROM base\nADD x /")]);
        directory.write("x", &archive.into_inner().unwrap());
        let error = directory.build(&mut worker(), &options(&[])).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_socket_in_the_context_is_named() {
    let directory = Directory::new(&[("Dockerfile", "FROM base\nCOPY . /")]);
    let _socket = std::os::unix::net::UnixListener::bind(directory.0.path().join("s")).unwrap();
    let error = directory.build(&mut worker(), &options(&[])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/s is a device, a pipe or a socket"),
        "{error}"
    );
}
