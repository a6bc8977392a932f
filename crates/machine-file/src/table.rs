//! The file's keys.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use spec::{
    BackEnd, Cpus, Disk, External, Hostname, Image, Init, MachineSpec, Memory, Name, Network,
    Opened, Program, Publish, Shape, Share, Volume,
};

use crate::MachineFile;

/// A machine of CrumbleCracker. Paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Table {
    /// host, busybox, a directory with a leading / or ./, a name as in debian:bookworm, oci:DIR,
    /// oci-archive:FILE or docker-archive:FILE.
    image: Text<Image>,
    /// What runs instead of the image's entry point.
    entrypoint: Option<String>,
    /// The command and its arguments; the image's if there are none.
    #[serde(default)]
    command: Vec<String>,
    /// Variables of its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Its working directory in the guest.
    workdir: Option<PathBuf>,
    /// USER[:GROUP] in the guest, by name or number.
    user: Option<String>,
    /// Number of virtual CPUs, 1 to 254.
    #[serde(default, deserialize_with = "cpus")]
    #[schemars(with = "Option<u8>", range(min = 1, max = 254))]
    cpus: Option<Cpus>,
    /// Memory of the guest, as in 512M or 2G.
    memory: Option<Text<Memory>>,
    /// none, user or tap=NAME, with settings after commas.
    network: Option<Text<Network>>,
    /// Ports of the host that lead to the guest: [[ADDRESS:]HOST:]GUEST[/udp].
    #[serde(default)]
    publish: Vec<Text<Publish>>,
    /// A kernel file, ELF or bzImage with its drivers built in, instead of the distribution's.
    kernel: Option<PathBuf>,
    /// Host name of the guest.
    hostname: Option<Text<Hostname>>,
    /// The image's own init as process 1: systemd, or an absolute path.
    init: Option<Text<Init>>,
    /// Memory that the guest's kernel has free goes back to the host.
    #[serde(default)]
    free_page_reporting: bool,
    /// What the guest writes is kept under this name.
    name: Option<Text<Name>>,
    /// Directories of the host that the guest sees.
    #[serde(default)]
    share: Vec<ShareTable>,
    /// Directories that are kept for guests under names.
    #[serde(default)]
    volume: Vec<VolumeTable>,
    /// Files of the host that are disks of the guest: /dev/vda and so on, in this order.
    #[serde(default)]
    disk: Vec<DiskTable>,
    /// Devices whose vhost-user back ends are other programs'.
    #[serde(default)]
    device: Vec<DeviceTable>,
}

impl Table {
    pub(crate) fn into_file(self) -> MachineFile {
        let default = MachineSpec::new(self.image.0);
        let spec = MachineSpec {
            cpus: self.cpus.unwrap_or(default.cpus),
            memory: self.memory.map_or(default.memory, Text::into_inner),
            shares: self.share.into_iter().map(|share| share.0).collect(),
            volumes: self.volume.into_iter().map(|volume| volume.0).collect(),
            disks: self.disk.into_iter().map(DiskTable::into_disk).collect(),
            external: self.device.into_iter().map(|device| device.0).collect(),
            network: self.network.map_or(default.network, Text::into_inner),
            publish: self.publish.into_iter().map(Text::into_inner).collect(),
            kernel: self.kernel,
            hostname: self.hostname.map_or(default.hostname, Text::into_inner),
            init: self.init.map(Text::into_inner),
            terminal: false,
            free_page_reporting: self.free_page_reporting,
            name: self.name.map(Text::into_inner),
            image: default.image,
        };
        MachineFile {
            spec,
            entrypoint: self.entrypoint,
            command: self.command,
            env: self.env.into_iter().collect(),
            workdir: self.workdir,
            user: self.user,
        }
    }
}

/// The number is checked where it stands.
fn cpus<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Cpus>, D::Error> {
    let number = u8::deserialize(from)?;
    Cpus::try_from(number).map(Some).map_err(D::Error::custom)
}

/// What `crumble run` takes as a word.
#[derive(Debug)]
struct Text<T>(T);

impl<T> Text<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

impl<'d, T: FromStr<Err: Display>> Deserialize<'d> for Text<T> {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<T> JsonSchema for Text<T> {
    fn schema_name() -> Cow<'static, str> {
        "string".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A directory of the host that the guest sees.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ShareKeys {
    /// The directory of the host.
    host: String,
    /// The absolute path in the guest.
    guest: String,
    /// The guest may not write.
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(try_from = "ShareKeys")]
#[schemars(with = "ShareKeys")]
struct ShareTable(Share);

impl TryFrom<ShareKeys> for ShareTable {
    type Error = spec::Error;

    fn try_from(keys: ShareKeys) -> Result<Self, spec::Error> {
        let mode = if keys.read_only { "ro" } else { "rw" };
        let share: Share = format!("{}:{}:{mode}", "host", keys.guest).parse()?;
        let host = keys.host.into();
        Ok(Self(Share { host, ..share }))
    }
}

/// A directory that is kept for guests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VolumeKeys {
    /// The name that it is kept under.
    name: String,
    /// The absolute path in the guest.
    guest: String,
    /// The guest may not write.
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(try_from = "VolumeKeys")]
#[schemars(with = "VolumeKeys")]
struct VolumeTable(Volume);

impl TryFrom<VolumeKeys> for VolumeTable {
    type Error = spec::Error;

    fn try_from(keys: VolumeKeys) -> Result<Self, spec::Error> {
        let mode = if keys.read_only { "ro" } else { "rw" };
        format!("{}:{}:{mode}", keys.name, keys.guest)
            .parse()
            .map(Self)
    }
}

/// A file of the host that is a disk of the guest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DiskTable {
    /// The file, of a multiple of 512 bytes.
    path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    read_only: bool,
}

impl DiskTable {
    fn into_disk(self) -> Disk {
        Disk {
            path: self.path,
            read_only: self.read_only,
        }
    }
}

/// A device whose vhost-user back end listens on a socket, or is a program that is started in a jail.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DeviceKeys {
    /// net, block, console, rng, scsi, gpu, input, crypto, sound, fs, i2c, can, gpio, or a virtio device
    /// id.
    kind: String,
    /// Where its back end listens.
    socket: Option<PathBuf>,
    /// The program and its arguments: {fd} in one of them is the number of the socket that it is to listen on,
    /// {NAME} that of a file.
    command: Option<Vec<String>>,
    /// What the program may do: a policy of crumble-jailer.
    policy: Option<PathBuf>,
    /// Files that are opened for the program.
    #[serde(default)]
    files: BTreeMap<String, FileKeys>,
    /// The program's environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The program uses its queues in order and keeps nothing else: when it has ended it is started again,
    /// and the guest does not notice.
    #[serde(default)]
    in_order: bool,
    /// How many queues it has.
    queues: Option<u16>,
    /// The size of each, a power of two.
    size: Option<u16>,
    /// What the guest calls a file system.
    tag: Option<String>,
}

/// A file that is opened for a program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileKeys {
    /// The file, or directory.
    path: PathBuf,
    /// It may be written.
    #[serde(default)]
    writable: bool,
}

impl From<FileKeys> for Opened {
    fn from(keys: FileKeys) -> Self {
        let FileKeys { path, writable } = keys;
        Self { path, writable }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(try_from = "DeviceKeys")]
#[schemars(with = "DeviceKeys")]
struct DeviceTable(External);

impl TryFrom<DeviceKeys> for DeviceTable {
    type Error = spec::Error;

    fn try_from(keys: DeviceKeys) -> Result<Self, spec::Error> {
        let wrong = |reason: &str| spec::Error::Device {
            given: keys.kind.clone(),
            reason: reason.to_owned(),
        };
        let programs_own = keys.in_order
            || keys.policy.is_some()
            || !(keys.files.is_empty() && keys.env.is_empty());
        let back_end = match (keys.socket, keys.command, keys.policy) {
            (Some(_), None, _) if programs_own => {
                let reason = "what is policy, files, env or in-order goes with a command";
                return Err(wrong(reason));
            }
            (Some(socket), None, _) => BackEnd::Socket(socket),
            (None, Some(command), Some(policy)) => {
                let files = keys.files.into_iter();
                let files = files.map(|(name, keys)| (name, keys.into())).collect();
                BackEnd::Program(Program::new(command, policy, keys.env, files)?)
            }
            (None, Some(_), None) => return Err(wrong("its command needs a policy")),
            _ => return Err(wrong("it has either a socket or a command")),
        };
        let shape = Shape {
            queues: keys.queues,
            size: keys.size,
            tag: keys.tag,
            in_order: keys.in_order,
        };
        External::new(&keys.kind, back_end, shape).map(Self)
    }
}
