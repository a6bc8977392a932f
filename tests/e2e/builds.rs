//! Dockerfiles, built and run.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    layout::{Layer, Layout},
    support::{programs, stdout, stdout_of, tests},
};

tests![
    a_dockerfile_becomes_an_image_and_is_not_done_twice,
    a_command_sees_what_is_mounted_for_it_and_leaves_none_of_it,
    equal_builds_are_equal_images_where_the_date_is_given,
    a_command_that_fails_is_named_with_its_line,
    a_file_that_is_not_there_is_named_with_its_line,
    an_instruction_that_is_not_known_is_named_with_its_line,
];

/// A Dockerfile, files for it, and an image to begin with.
struct Context {
    directory: TempDir,
    /// There for as long as the build is.
    _base: Option<Layout>,
}

impl Context {
    /// In the Dockerfile, `BASE` stands for the image.
    fn new(dockerfile: &str) -> Self {
        let layout = || Layout::new([Layer::busybox()], &json!({ "Env": ["PATH=/bin"] }));
        let base = dockerfile.contains("BASE").then(layout);
        let name = base.as_ref().map(Layout::name).unwrap_or_default();
        let context = Self {
            directory: tempfile::tempdir().unwrap(),
            _base: base,
        };
        context.file("Dockerfile", &dockerfile.replace("BASE", &name));
        // No earlier run of the tests has built this.
        let unique = context.directory.path().display().to_string();
        context.file("unique", &unique);
        context
    }

    fn file(&self, name: &str, content: &str) {
        fs::write(self.directory.path().join(name), content).unwrap();
    }

    fn command(&self, name: &str, options: &[&str]) -> Command {
        let mut command = Command::new(programs().join("crumble"));
        command.args(["build", "--tag", name]).args(options);
        command.arg(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn build(&self, name: &str, options: &[&str]) -> Output {
        self.command(name, options).output().unwrap()
    }

    /// Builds it, which has to work; what that says.
    #[track_caller]
    fn built(&self, name: &str, options: &[&str]) -> String {
        let output = self.build(name, options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let digest = String::from_utf8(output.stdout).unwrap();
        assert!(digest.starts_with("sha256:"), "{digest}");
        said
    }

    /// Asserts that it cannot be built, and that all of `words` are said.
    #[track_caller]
    fn fails(&self, words: &[&str]) {
        let output = self.build("of-the-tests/broken", &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        for word in words {
            assert!(said.contains(word), "\"{word}\" is missing in: {said}");
        }
    }
}

/// An image's name, which is forgotten with this value.
struct Name(&'static str);

impl Drop for Name {
    fn drop(&mut self) {
        let mut remove = Command::new(programs().join("crumble"));
        // If it was not built, there is none.
        let _ = remove.args(["image", "rm", self.0]).output();
    }
}

const STAGES: &str = "\
FROM BASE AS maker
ARG GREETING=nothing
WORKDIR /made
COPY unique words .
RUN echo \"$GREETING from $(cat words)\" > greeting
RUN stat -c %a greeting > mode

FROM BASE
COPY --from=maker --chown=somebody /made/greeting /greeting
COPY --from=maker /made/mode /
USER somebody
ENTRYPOINT [\"sh\", \"-c\", \"id -u; stat -c %u /greeting; cat /mode /greeting\"]
";

fn a_dockerfile_becomes_an_image_and_is_not_done_twice() {
    let name = Name("of-the-tests/built:1");
    let context = Context::new(STAGES);
    context.file("words", "a file\n");
    let said = context.built(name.0, &["--build-arg", "GREETING=hello"]);
    // What is copied from the first stage has the same contents each time.
    let first = said.matches("as before").count();
    let run = || stdout(&["--network", "none", name.0]);
    assert_eq!(run(), "1000\n1000\n644\nhello from a file\n");
    accepted(name.0);

    let said = context.built(name.0, &["--build-arg", "GREETING=hello"]);
    // WORKDIR, three that copy, two that run.
    let again = said.matches("as before").count();
    assert_eq!(again, 6, "{said}");
    assert!(first < again, "{first}");
    let said = context.built(name.0, &["--build-arg", "GREETING=bye"]);
    let fewer = said.matches("as before").count();
    assert!(0 < fewer && fewer < again, "{said}");
    assert_eq!(run(), "1000\n1000\n644\nbye from a file\n");
}

/// Asserts that a program of others can read the image.
fn accepted(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("image.tar");
    let mut save = Command::new(programs().join("crumble"));
    save.args(["image", "save", name, "--output"]).arg(&archive);
    stdout_of(save);
    let source = format!("oci-archive:{}", archive.display());
    let mut inspect = Command::new("skopeo");
    inspect.args(["inspect", "--config", &source]);
    let output = inspect.output().expect("the package skopeo is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["config"]["User"], "somebody", "{document}");
}

const MOUNTS: &str = "\
FROM BASE AS other
COPY words unique /dir/
FROM BASE
RUN --mount=type=bind,from=other,source=/dir,target=/seen \\
    --mount=type=bind,source=words,target=/one,rw \\
    --mount=type=tmpfs,target=/memory,size=1m \\
    cat /seen/words /one > /made; \\
    touch /seen/words || echo read-only >> /made; \\
    echo changed > /one && cat /one >> /made; \\
    dd if=/dev/zero of=/memory/file bs=64k count=64 || stat -c %s /memory/file >> /made
";

fn a_command_sees_what_is_mounted_for_it_and_leaves_none_of_it() {
    let name = Name("of-the-tests/mounts:1");
    let context = Context::new(MOUNTS);
    context.file("words", "words\n");
    context.built(name.0, &[]);
    let text = stdout(&[
        "--network",
        "none",
        name.0,
        "--",
        "sh",
        "-c",
        "cat /made; ls -d /[som]*",
    ]);
    assert_eq!(
        text,
        "words\nwords\nread-only\nchanged\n1048576\n/made\n/sys\n"
    );
}

fn equal_builds_are_equal_images_where_the_date_is_given() {
    let name = Name("of-the-tests/dated:1");
    let context = Context::new("FROM BASE\nCOPY unique /\nCMD true\n");
    let build = || {
        let mut command = context.command(name.0, &["--no-cache"]);
        let output = command.env("SOURCE_DATE_EPOCH", "86400").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(build(), build());
    let mut inspect = Command::new(programs().join("crumble"));
    inspect.args(["image", "inspect", name.0]);
    let document = stdout_of(inspect);
    assert!(document.contains("1970-01-02T00:00:00Z"), "{document}");
    let mut command = context.command(name.0, &[]);
    let output = command.env("SOURCE_DATE_EPOCH", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"soon\""));
}

fn a_command_that_fails_is_named_with_its_line() {
    let context = Context::new("FROM BASE\nCOPY unique /\n\nRUN echo it is said >&2; exit 7\n");
    context.fails(&["Dockerfile:4: RUN", "it is said", "7"]);
}

fn a_file_that_is_not_there_is_named_with_its_line() {
    let context = Context::new("FROM scratch\nCOPY unique no-such-file /to/\n");
    context.fails(&["Dockerfile:2: COPY", "no-such-file"]);
}

fn an_instruction_that_is_not_known_is_named_with_its_line() {
    let context = Context::new("FROM scratch\n\nFRY unique\n");
    context.fails(&["Dockerfile:3: FRY"]);
}
