//! The words that policies are made of, with the kernel's numbers.

/// Which of the host's users a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// One that nothing else is: a high number chosen for each process if started by root, the
    /// user itself otherwise.
    Single,
    /// Every user keeps its number if started by root; the user itself otherwise.
    All,
}

/// What a component sees of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// An open descriptor of its own `/proc/self/fd`, from which no path leads up.
    SelfFd,
}

/// Words with a number that the kernel knows and a name that people do.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $type:ty, $number:ident, $(#[$number_doc:meta])*
     { $($variant:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the variants are the kernel's own words")]
        pub enum $name { $($variant,)* }

        impl $name {
            $(#[$number_doc])*
            #[must_use]
            pub const fn $number(self) -> $type {
                match self { $(Self::$variant => $value,)* }
            }

            /// What people call it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The one that people call `name`.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// A kind of namespace.
    Namespace: u64, flag,
    /// The flag of `clone3(2)` that makes one (`linux/sched.h`).
    {
        Mount = 0x0002_0000, "mount";
        Cgroup = 0x0200_0000, "cgroup";
        Uts = 0x0400_0000, "uts";
        Ipc = 0x0800_0000, "ipc";
        User = 0x1000_0000, "user";
        Pid = 0x2000_0000, "pid";
        Net = 0x4000_0000, "net";
    }
}

words! {
    /// A capability, as far as a component has a use for it.
    Capability: u32, number,
    /// Its number (`linux/capability.h`).
    {
        Chown = 0, "chown";
        DacOverride = 1, "dac_override";
        DacReadSearch = 2, "dac_read_search";
        Fowner = 3, "fowner";
        Fsetid = 4, "fsetid";
        Setgid = 6, "setgid";
        Setuid = 7, "setuid";
        Mknod = 27, "mknod";
        Setfcap = 31, "setfcap";
    }
}

words! {
    /// A resource with a limit.
    Resource: u32, number,
    /// Its number (`asm-generic/resource.h`, as x86-64 and arm64 use it).
    {
        Fsize = 1, "fsize";
        Data = 2, "data";
        Core = 4, "core";
        Nproc = 6, "nproc";
        Nofile = 7, "nofile";
        Memlock = 8, "memlock";
        As = 9, "as";
        Msgqueue = 12, "msgqueue";
        Rtprio = 14, "rtprio";
    }
}
