use build::{MountKind, Network};

use crate::fake::{Directory, built, options, worker};

#[test]
fn a_command_sees_environment_and_arguments_but_not_in_its_text() {
    let text = "FROM base\nARG A=1\nARG PATH=no\nENV B=2\nUSER app\nWORKDIR /w\nRUN --network=none echo $A \\\n  '$B'\n\
        RUN [\"/bin/x\", \"$A\"]\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN y";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let mut worker = worker();
    let options = options(&[("HTTP_PROXY", "http://p"), ("https_proxy", "q")]);
    directory.build(&mut worker, &options).unwrap();
    let run = &worker.runs[0];
    assert_eq!(run.argv, ["/bin/sh", "-c", "echo $A   '$B'"]);
    let env = [
        "PATH=/bin",
        "FROM_BASE=yes",
        "B=2",
        "A=1",
        "HTTP_PROXY=http://p",
        "https_proxy=q",
    ];
    assert_eq!(run.env, env);
    assert_eq!((run.user.as_str(), run.cwd.as_str()), ("app", "/w"));
    assert_eq!(run.network, Network::None);
    assert_eq!(run.platform, "linux/arm64");
    assert_eq!(worker.runs[1].argv, ["/bin/x", "$A"]);
    assert_eq!(worker.runs[2].argv, ["/bin/bash", "-ec", "y"]);
    assert_eq!(worker.warnings, [""; 0]);
}

#[test]
fn here_documents_are_commands_scripts_or_the_shells_business() {
    let (_, worker) = built(
        "FROM base\nRUN <<EOF\na $x\nb\nEOF\nRUN <<'S'\n#!/usr/bin/python3\nprint()\nS\n\
         RUN cat <<A >/a && cat <<-B\n1\nA\n\t2\nB\nRUN python3 <<E\nx\nE\n",
        &[],
    );
    assert_eq!(worker.runs[0].argv, ["/bin/sh", "-c", "a $x\nb\n"]);
    assert_eq!(worker.runs[1].argv, ["/bin/sh", "-c", "/dev/pipes/S"]);
    let script = worker.runs[1].script.as_ref().unwrap();
    assert_eq!(script.path, "/dev/pipes/S");
    assert_eq!(script.content, "#!/usr/bin/python3\nprint()\n");
    assert_eq!(
        worker.runs[2].argv[2],
        "cat <<A >/a && cat <<-B\n1\nA\n2\nB"
    );
    assert_eq!(worker.runs[3].argv[2], "python3 <<E\nx\nE");
}

#[test]
fn mounts_are_layers_of_stages_and_of_the_context() {
    let (_, worker) = built(
        "FROM base AS one\nRUN put /a x\nFROM base\nARG ID=key\nWORKDIR /w\n\
         RUN --mount=from=one,source=/a,target=in --mount=type=bind,target=/c,src=dir \
         --mount=type=cache,target=/k --mount=type=secret,id=$ID --mount=type=tmpfs,target=/t make",
        &[("dir/f", "file"), ("other", "no")],
    );
    let run = &worker.runs[1];
    let targets: Vec<_> = run
        .mounts
        .iter()
        .map(|mount| mount.target.as_deref().unwrap())
        .collect();
    assert_eq!(targets, ["/w/in", "/c", "/k", "/run/secrets/key", "/t"]);
    let bind = |index: usize| match &run.mounts[index].kind {
        MountKind::Bind { layers, source, .. } => (worker.files(layers), source.as_str()),
        other => panic!("{other:?}"),
    };
    let (stage, source) = bind(0);
    assert_eq!((stage.text("a"), source), ("x", "/a"));
    let (context, source) = bind(1);
    assert_eq!((context.text("dir/f"), source), ("file", "/dir"));
    assert!(!context.has("other"));
}
