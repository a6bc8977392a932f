//! Images from Dockerfiles: what reading one asks for, done with the store and with machines.

mod root;

pub(crate) use root::view;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use build::{
    Base, BoxError, Built, Context, Fetched, Key, Layer, Mount, MountKind, Network as Reach, Run,
    Step, Worker,
};
use image::{Hold, Patience, Policy, Pull};
use serde_json::{Value, json};

use crate::{
    Cpus, Error, Image, Images, Machine, Memory, Network, Reference, Share, Stdio,
    assemble::Beside, images::keep,
};

use self::root::LayersRoot;

/// Where commands are found if an image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where secrets are unless a Dockerfile says otherwise.
const SECRETS: &str = "/run/secrets";

/// The digest of an archive with nothing in it: two blocks of zeroes.
const NOTHING: [u8; 1024] = [0; 1024];

/// How an image is built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// What is built, and for whom.
    pub what: build::Options,
    /// The vCPUs of the machines that commands run in.
    pub cpus: Cpus,
    /// Their memory.
    pub memory: Memory,
    /// Whether images of registries are looked for anew.
    pub policy: Policy,
    /// Files that commands may be shown, by the names that the Dockerfile has for them.
    pub secrets: BTreeMap<String, PathBuf>,
    /// When the image says that it was made; now, if it is none.
    pub created: Option<SystemTime>,
}

impl Images {
    /// Builds an image from a Dockerfile, keeps it as `name`, and returns the digest of its manifest.
    /// Each command runs in a machine of its own. What they print goes to standard error.
    ///
    /// # Errors
    /// What is wrong with the Dockerfile, where; or why an instruction could not be carried out.
    pub fn build(
        &self,
        context: &Context,
        options: &BuildOptions,
        name: &Reference,
        progress: &mut dyn FnMut(Step<'_>),
        fetching: &dyn image::Progress,
    ) -> Result<image::Digest, Error> {
        let hold = self.store().hold()?;
        let mut site = Site {
            images: self,
            hold: &hold,
            options,
            layers: BTreeMap::new(),
            progress,
            fetching,
        };
        let built = build::build(context, &options.what, &mut site)?;
        let layers: Vec<image::Layer> = site.known(&built.layers).cloned().collect();
        let created = options.created.unwrap_or_else(SystemTime::now);
        let digest = self
            .store()
            .commit(&hold, document(&built, created), &layers, name)?;
        Ok(digest)
    }
}

/// The configuration of an image (OCI image specification, config.md).
fn document(built: &Built, created: SystemTime) -> Value {
    let (os, rest) = built.platform.split_once('/').unwrap_or(("linux", ""));
    let (architecture, variant) = rest.split_once('/').unwrap_or((rest, ""));
    let created = humantime::format_rfc3339_seconds(created).to_string();
    let history = built.history.iter().map(|step| {
        json!({
            "created": created,
            "created_by": step.created_by,
            "empty_layer": step.empty_layer,
        })
    });
    let mut document = json!({
        "created": created,
        "os": os,
        "architecture": architecture,
        "config": built.config,
        "history": history.collect::<Vec<_>>(),
    });
    if !variant.is_empty()
        && let Some(fields) = document.as_object_mut()
    {
        fields.insert("variant".to_owned(), variant.into());
    }
    document
}

/// Where the work is done.
struct Site<'a> {
    images: &'a Images,
    hold: &'a Hold,
    options: &'a BuildOptions,
    /// The layers that were named to the build.
    layers: BTreeMap<Layer, image::Layer>,
    progress: &'a mut dyn FnMut(Step<'_>),
    fetching: &'a dyn image::Progress,
}

impl Site<'_> {
    /// Names a layer, so that the build can speak of it.
    fn name(&mut self, layer: image::Layer) -> Layer {
        let name = Layer(layer.diff_id.to_string());
        self.layers.insert(name.clone(), layer);
        name
    }

    fn known<'s>(&'s self, layers: &'s [Layer]) -> impl Iterator<Item = &'s image::Layer> {
        layers.iter().filter_map(|layer| self.layers.get(layer))
    }

    fn files(&self, layers: &[Layer]) -> Vec<PathBuf> {
        let store = self.images.store();
        self.known(layers)
            .map(|layer| store.unpacked(layer))
            .collect()
    }

    /// The file that says what a key stands for.
    fn record(&self, key: &Key) -> PathBuf {
        self.images.builds().join(key.to_string())
    }

    /// A machine for a command.
    fn start(&self, layers: &[Layer], run: &Run, shown: &mut Shown) -> Result<Machine, Error> {
        let network = match run.network {
            Reach::Default => Network::default(),
            Reach::None => Network::None,
        };
        let mut builder = Machine::builder(Image::Host)
            .programs(self.images.programs())
            .layers(self.files(layers))
            .cpus(self.options.cpus)
            .memory(self.options.memory)
            .network(network);
        for share in shown.shares.drain(..) {
            builder = builder.share(share);
        }
        for beside in shown.beside.drain(..) {
            builder = builder.beside(beside);
        }
        builder.start()
    }

    /// What a command is shown besides its root.
    fn shown(&self, run: &Run) -> Result<Shown, BoxError> {
        let mut shown = Shown {
            directory: tempfile::tempdir()?,
            shares: Vec::new(),
            beside: Vec::new(),
            env: Vec::new(),
        };
        if let Some(script) = &run.script {
            shown.file(&script.path, script.content.as_bytes(), 0o755)?;
        }
        for mount in &run.mounts {
            self.show(mount, &mut shown)?;
        }
        Ok(shown)
    }

    /// Runs a command to its end, which has to be a good one.
    fn execute(machine: &Machine, run: &Run, shown: &Shown) -> Result<(), BoxError> {
        let (program, arguments) = run.argv.split_first().ok_or("there is no command")?;
        let mut command = machine.command(program);
        command
            .args(arguments)
            .stdin(Stdio::Null)
            .stdout(Stdio::Piped);
        command.variable(PATH);
        run.env.iter().for_each(|line| command.variable(line));
        for (name, value) in &shown.env {
            command.env(name, value);
        }
        if !run.user.is_empty() {
            command.user(&run.user);
        }
        let mut child = command.current_dir(&run.cwd).spawn()?;
        // Standard output is for the caller's own results.
        if let Some(mut output) = child.stdout.take() {
            io::copy(&mut output, &mut io::stderr())?;
        }
        let status = child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("it ended with {status}").into()),
        }
    }

    /// Prepares what a `--mount` asks for.
    fn show(&self, mount: &Mount, shown: &mut Shown) -> Result<(), BoxError> {
        match (&mount.kind, mount.target.as_deref()) {
            (MountKind::Cache { id, read_only, .. }, Some(target)) => {
                let name = image::Digest::of(id.as_bytes()).hex();
                let directory = self.images.builds().join("caches").join(name);
                fs::create_dir_all(&directory)?;
                shown.share(&directory, target, *read_only)
            }
            (
                MountKind::Secret {
                    id, env, required, ..
                },
                target,
            ) => {
                let Some(path) = self.options.secrets.get(id) else {
                    return match required {
                        true => {
                            Err(format!("there is no secret {id}: name it with --secret").into())
                        }
                        false => Ok(()),
                    };
                };
                let content = fs::read(path).map_err(|error| {
                    format!("cannot read the secret {id}, {}: {error}", path.display())
                })?;
                if let Some(name) = env {
                    let value = String::from_utf8_lossy(&content).into_owned();
                    shown.env.push((name.clone(), value));
                }
                match target {
                    Some(target) => shown.file(target, &content, 0o400),
                    None => Ok(()),
                }
            }
            (MountKind::Tmpfs { size }, Some(target)) => {
                shown.beside.push(Beside::Memory {
                    path: target.to_owned(),
                    size: *size,
                });
                Ok(())
            }
            (
                MountKind::Bind {
                    layers,
                    source,
                    writable,
                },
                Some(target),
            ) => {
                shown.beside.push(Beside::Part {
                    layers: self.files(layers),
                    source: source.clone(),
                    path: target.to_owned(),
                    writable: *writable,
                });
                Ok(())
            }
            (_, None) => Err("a mount without a target".into()),
        }
    }
}

/// What a command sees that is of no layer.
struct Shown {
    directory: tempfile::TempDir,
    shares: Vec<Share>,
    beside: Vec<Beside>,
    env: Vec<(String, String)>,
}

impl Shown {
    fn share(&mut self, host: &Path, guest: &str, read_only: bool) -> Result<(), BoxError> {
        self.shares.push(Share {
            host: host.to_owned(),
            guest: guest.to_owned(),
            read_only,
        });
        Ok(())
    }

    /// A file: its directory in the guest has nothing else then.
    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), BoxError> {
        use std::os::unix::fs::PermissionsExt;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if ![SECRETS, "/dev/pipes"].contains(&directory) {
            return Err(
                format!("{path} cannot be shown to a command: only files in {SECRETS}").into(),
            );
        }
        let host = self
            .directory
            .path()
            .join(directory.trim_start_matches('/'));
        fs::create_dir_all(&host)?;
        let file = host.join(name);
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        if self.shares.iter().any(|share| share.guest == directory) {
            return Ok(());
        }
        self.share(&host, directory, true)
    }
}

impl Worker for Site<'_> {
    fn base(&mut self, reference: &str, platform: &str) -> Result<Base, BoxError> {
        let pull = Pull {
            platform: platform.parse()?,
            policy: self.options.policy,
        };
        let image = self.images.get(&reference.parse()?, &pull, self.fetching)?;
        let raw = self.images.store().inspect(image.name(), &pull.platform)?;
        let mut document: Value = serde_json::from_str(&raw.config)?;
        let mut take = |field: &str| document.get_mut(field).map(Value::take);
        let config = take("config").filter(|config| !config.is_null());
        let history = take("history").filter(|history| !history.is_null());
        let layers = image.blobs().to_vec();
        Ok(Base {
            config: config
                .map(serde_json::from_value)
                .transpose()?
                .unwrap_or_default(),
            history: history
                .map(serde_json::from_value)
                .transpose()?
                .unwrap_or_default(),
            layers: layers.into_iter().map(|layer| self.name(layer)).collect(),
        })
    }

    fn fetch(&mut self, address: &str, checksum: Option<&str>) -> Result<Fetched, BoxError> {
        let checksum = checksum.map(str::parse).transpose()?;
        let (file, digest) = image::fetch(address, checksum.as_ref(), Patience::default())?;
        let digest = digest.to_string();
        Ok(Fetched { file, digest })
    }

    fn root(&mut self, layers: &[Layer]) -> Result<Box<dyn build::Root>, BoxError> {
        Ok(Box::new(LayersRoot::open(&self.files(layers))?))
    }

    fn run(&mut self, layers: &[Layer], run: &Run) -> Result<Option<Layer>, BoxError> {
        let mut shown = self.shown(run)?;
        let machine = self.start(layers, run, &mut shown)?;
        Self::execute(&machine, run, &shown)?;
        let layer = keep(
            self.images,
            self.hold,
            |writer| Ok(machine.changes(writer)?),
        )?;
        machine.shutdown()?;
        if layer.diff_id == image::Digest::of(&NOTHING) {
            return Ok(None);
        }
        Ok(Some(self.name(layer)))
    }

    fn store(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Layer, BoxError> {
        let layer = keep(self.images, self.hold, |writer| Ok(write(writer)?))?;
        Ok(self.name(layer))
    }

    fn cached(&mut self, key: &Key) -> Option<Option<Layer>> {
        let bytes = fs::read(self.record(key)).ok()?;
        let known: Option<(image::Descriptor, image::Digest)> =
            serde_json::from_slice(&bytes).ok()?;
        let Some((blob, diff_id)) = known else {
            return Some(None);
        };
        let layer = image::Layer { blob, diff_id };
        let here = self.images.store().has(&layer);
        here.then(|| Some(self.name(layer)))
    }

    fn remember(&mut self, key: &Key, layer: Option<&Layer>) {
        let known = layer.and_then(|layer| self.layers.get(layer));
        let known = known.map(|layer| (&layer.blob, layer.diff_id));
        // What cannot be remembered is done again.
        let _ = serde_json::to_vec(&known)
            .map_err(io::Error::other)
            .and_then(|bytes| write_whole(&self.record(key), &bytes));
    }

    fn progress(&mut self, step: Step<'_>) {
        (self.progress)(step);
    }
}

/// Nobody reads half of it.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
