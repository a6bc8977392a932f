use build::Config;

use crate::fake::{Directory, built, options, worker};

#[test]
fn a_stage_takes_files_from_others_by_name_and_number() {
    let (built, worker) = built(
        "FROM base AS one\nRUN put /a from-one\nFROM base AS two\nRUN put /b from-two\nRUN unused\n\
         FROM scratch\nCOPY --from=one /a /x/\nCOPY --from=1 /b /y\nCOPY --from=base /lib/libc /z",
        &[],
    );
    let files = worker.files(&built.layers);
    assert_eq!(files.text("x/a"), "from-one");
    assert_eq!(files.text("y"), "from-two");
    assert_eq!(files.text("z"), "libc");
    assert_eq!(built.config, Config::default());
    assert_eq!(built.history.len(), 3);
}

#[test]
fn only_the_stages_that_are_needed_are_built() {
    let text = "FROM base AS a\nRUN in-a\nFROM nothing AS b\nRUN in-b\nFROM a AS c\nRUN in-c\nFROM b\nRUN in-d";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let mut worker = worker();
    let mut options = options(&[]);
    options.target = Some("C".to_owned());
    directory.build(&mut worker, &options).unwrap();
    assert_eq!(worker.commands(), ["in-a", "in-c"]);
    assert_eq!(worker.begun, ["[a 1/1] RUN in-a", "[c 1/1] RUN in-c"]);
    options.target = Some("0".to_owned());
    assert!(directory.build(&mut worker, &options).is_ok());
    options.target = Some("e".to_owned());
    let message = directory
        .build(&mut worker, &options)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no stage \"e\" for --target, but [\"a\", \"b\", \"c\"]"),
        "{message}"
    );
}

#[test]
fn arguments_reach_from_lines_and_stages_that_ask_for_them() {
    let text = "ARG TAG=none\nARG IMAGE=ba${TAG}\nFROM --platform=$BUILDPLATFORM $IMAGE\n\
        ARG TAG\nARG OWN=default\nARG TARGETPLATFORM TARGETARCH\nENV T=$TAG O=$OWN P=$TARGETPLATFORM/$TARGETARCH N=$IMAGE";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let mut worker = worker();
    let options = options(&[("TAG", "se"), ("STRAY", "x")]);
    let built = directory.build(&mut worker, &options).unwrap();
    let own = &built.config.env[2..];
    assert_eq!(own, ["T=se", "O=default", "P=linux/arm64/arm64", "N="]);
    assert_eq!(worker.platforms, ["linux/amd64"]);
    assert_eq!(built.platform, "linux/amd64");
    assert_eq!(
        worker.warnings,
        ["the build argument STRAY is not used: no ARG has this name"]
    );
}

#[test]
fn arguments_are_inherited_by_stages_that_begin_from_a_stage() {
    let (built, worker) = built(
        "FROM base AS parent\nARG A=1\nFROM base AS other\nRUN a=$A\nFROM parent\nENV B=$A\nCOPY --from=other /etc /x",
        &[],
    );
    assert_eq!(built.config.env.last().map(String::as_str), Some("B=1"));
    assert!(!worker.runs[0].env.contains(&"A=1".to_owned()));
}

#[test]
fn instructions_for_later_are_done_first_and_once() {
    let mut worker = worker();
    let config = Config {
        on_build: vec![
            "COPY app /app".to_owned(),
            "RUN <<E\nput /t trigger\nE".to_owned(),
        ],
        ..Config::default()
    };
    worker.image("parent", config, &[("p", "p")]);
    let text = "FROM parent AS mid\nRUN put /own own\nONBUILD RUN later\nFROM mid\nRUN last";
    let directory = Directory::new(&[("Dockerfile", text), ("app", "the app")]);
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    let commands: Vec<&str> = worker.commands();
    assert_eq!(
        commands,
        ["put /t trigger\n", "put /own own", "later", "last"]
    );
    assert_eq!(worker.files(&built.layers).text("app"), "the app");
    assert!(built.config.on_build.is_empty());

    let mut options = options(&[]);
    options.target = Some("mid".to_owned());
    let mid = directory.build(&mut worker, &options).unwrap();
    assert_eq!(mid.config.on_build, ["RUN later"]);
}

#[test]
fn a_stage_that_only_a_trigger_needs_is_built() {
    let mut worker = worker();
    let config = Config {
        on_build: vec!["COPY --from=tools /t /t".to_owned()],
        ..Config::default()
    };
    worker.image("parent", config, &[]);
    let text = "FROM base AS tools\nRUN put /t tool\nFROM parent";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let built = directory.build(&mut worker, &options(&[])).unwrap();
    assert_eq!(worker.files(&built.layers).text("t"), "tool");
}

#[test]
fn the_configuration_grows_as_docker_says() {
    let (built, _) = built(
        "FROM base\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\nLABEL a=\"b c\" d=$ghi\n\
         EXPOSE 80 53/udp\nVOLUME /data \"/x y\"\nVOLUME [\"/json\"]\nWORKDIR /a\nWORKDIR b\nUSER app:staff\n\
         STOPSIGNAL SIGINT\nHEALTHCHECK --retries=2 CMD true\nMAINTAINER me\nSHELL [\"/bin/bash\", \"-c\"]\n\
         ENTRYPOINT [\"/e\"]\nONBUILD RUN x",
        &[],
    );
    let config = built.config;
    assert_eq!(
        config.env,
        [
            "PATH=/bin",
            "FROM_BASE=yes",
            "abc=bye",
            "def=hello",
            "ghi=bye"
        ]
    );
    assert_eq!(config.labels["a"], "b c");
    assert_eq!(config.labels["d"], "bye");
    assert_eq!(config.labels["maintainer"], "me");
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp"]
    );
    assert_eq!(
        config.volumes.keys().collect::<Vec<_>>(),
        ["/data", "/json", "/x y"]
    );
    assert_eq!(config.working_dir, "/a/b");
    assert_eq!(config.user, "app:staff");
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.healthcheck.unwrap().test, ["CMD-SHELL", "true"]);
    assert_eq!(config.entrypoint, ["/e"]);
    assert!(
        config.cmd.is_empty(),
        "that of the base was for another entry point"
    );
    assert_eq!(config.on_build, ["RUN x"]);
    assert_eq!(built.history.len(), 16);
    assert_eq!(built.history[7].created_by, "WORKDIR /a");
    assert!(!built.history[7].empty_layer && built.history[0].empty_layer);
}

#[test]
fn a_command_of_the_same_stage_survives_its_entry_point() {
    let (built, _) = built("FROM base\nCMD a b\nENTRYPOINT x", &[]);
    assert_eq!(built.config.cmd, ["/bin/sh", "-c", "a b"]);
    assert_eq!(built.config.entrypoint, ["/bin/sh", "-c", "x"]);
}
