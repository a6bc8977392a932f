"""What POSIX and Linux say of files, tried in several places of one guest.

Each check is a function that raises if a place does otherwise. The guest's memory (tmpfs) shows whether a check
is right, QEMU's virtiofsd what is virtiofs' way rather than ours.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

PLACES = {"tmpfs": "/tmpfs", "root": "/var/tmp", "share": "/share", "theirs": "/theirs"}

# What a place may do otherwise, with the reason.
IN_MEMORY = {
    "user_attributes_are_kept": "tmpfs has them since Linux 6.6",
    "direct_writes_are_read": "tmpfs has them since Linux 6.6",
}
FUSE = {
    "a_file_without_a_name_gets_one": "FUSE has them since Linux 6.2",
    "root_s_attributes_are_root_s": "they are the host's root's",
    "an_immutable_or_append_only_file_is_refused_or_is_so": "virtiofs has no such ioctl",
}
KNOWN = {
    "tmpfs": IN_MEMORY,
    "root": IN_MEMORY | {"a_file_without_a_name_gets_one": "overlayfs has them since Linux 6.3"},
    "share": FUSE | {"devices_are_made_and_work": "dev-fs may not make devices of the host"},
    "theirs": FUSE,
}

libc = ctypes.CDLL(None, use_errno=True)
checks = []


def check(function):
    checks.append(function)
    return function


def fails(number, function, *arguments, **more):
    try:
        function(*arguments, **more)
    except OSError as error:
        assert error.errno == number, f"{errno.errorcode[error.errno]}, not {errno.errorcode[number]}"
    else:
        raise AssertionError(f"it worked, and should be {errno.errorcode[number]}")


def write(name, content=b"content", mode=0o644):
    with open(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode), "wb") as file:
        file.write(content)


def read(name):
    with open(name, "rb") as file:
        return file.read()


def as_user(function, uid=1000, groups=()):
    """Runs a function as another user, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            function()
        except BaseException as error:
            print(f"  as user {uid}: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Names and directories.


@check
def a_name_is_up_to_255_bytes():
    write("x" * 255)
    assert "x" * 255 in os.listdir(".")
    fails(errno.ENAMETOOLONG, write, "x" * 256)


@check
def any_byte_but_two_is_in_names():
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    for part in (name[:128], name[128:]):
        write(part)
        assert part in os.listdir(b".")


@check
def a_directory_that_is_not_empty_stays():
    os.makedirs("a/b")
    write("file")
    fails(errno.ENOTEMPTY, os.rmdir, "a")
    fails(errno.ENOTDIR, os.rmdir, "file")
    fails(errno.EISDIR, os.unlink, "a")
    fails(errno.ENOENT, os.rmdir, "missing")


@check
def a_thousand_names_are_listed_once_each():
    for number in range(1000):
        write(f"name {number}", b"")
    assert len(os.listdir(".")) == len(set(os.listdir("."))) == 1000


@check
def names_that_are_removed_while_listed_are_gone():
    for number in range(500):
        write(str(number), b"")
    with os.scandir(".") as entries:
        for entry in entries:
            os.unlink(entry.name)
    assert os.listdir(".") == []


@check
def listings_say_what_kind_each_is():
    os.mkdir("directory")
    write("file")
    os.symlink("file", "symlink")
    os.mkfifo("fifo")
    kinds = {entry.name: entry for entry in os.scandir(".")}
    assert kinds["directory"].is_dir() and kinds["file"].is_file(follow_symlinks=False)
    assert kinds["symlink"].is_symlink() and not kinds["fifo"].is_file()


@check
def links_count():
    write("a")
    assert os.stat("a").st_nlink == 1
    os.link("a", "b")
    assert os.stat("a").st_nlink == os.stat("b").st_nlink == 2
    assert os.stat("a").st_ino == os.stat("b").st_ino
    os.unlink("a")
    assert os.stat("b").st_nlink == 1


@check
def a_link_shows_what_is_written_by_the_other_name():
    write("a", b"1")
    os.link("a", "b")
    write("b", b"22")
    assert read("a") == b"22"
    fails(errno.EEXIST, os.link, "a", "b")


@check
def a_directory_has_no_second_name():
    os.mkdir("a")
    fails(errno.EPERM, os.link, "a", "b")


@check
def a_symbolic_link_is_what_it_was_given():
    os.symlink("x" * 1000, "long")
    assert os.readlink("long") == "x" * 1000
    assert os.lstat("long").st_size == 1000
    fails(errno.ENAMETOOLONG, os.stat, "long")
    os.symlink("loop", "loop")
    fails(errno.ELOOP, os.stat, "loop")


@check
def a_rename_replaces():
    write("a", b"a")
    write("b", b"b")
    before = os.stat("a").st_ino
    os.rename("a", "b")
    assert read("b") == b"a" and not os.path.exists("a") and os.stat("b").st_ino == before


@check
def a_rename_knows_kinds():
    write("file")
    os.mkdir("directory")
    os.makedirs("full/inside")
    fails(errno.EISDIR, os.rename, "file", "directory")
    fails(errno.ENOTDIR, os.rename, "directory", "file")
    fails(errno.ENOTEMPTY, os.rename, "directory", "full")
    fails(errno.EINVAL, os.rename, "full", "full/inside/again")
    os.rename("directory", "full/inside")


@check
def a_rename_of_one_file_s_names_does_nothing():
    write("a")
    os.link("a", "b")
    os.rename("a", "b")
    assert sorted(os.listdir(".")) == ["a", "b"]


def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@check
def a_rename_may_be_told_not_to_replace():
    write("a", b"a")
    write("b", b"b")
    fails(errno.EEXIST, renameat2, "a", "b", 1)
    renameat2("a", "c", 1)
    assert read("c") == b"a"


@check
def a_rename_may_exchange():
    write("a", b"a")
    os.mkdir("b")
    renameat2("a", "b", 2)
    assert read("b") == b"a" and os.path.isdir("a")


@check
def a_tree_is_renamed_while_one_is_in_it():
    os.makedirs("a/b/c")
    write("a/b/c/file")
    os.chdir("a/b/c")
    os.rename("../../../a", "../../../z")
    assert read("file") == b"content" and os.getcwd().endswith("/z/b/c")


# Files that are open.


@check
def a_removed_file_is_there_while_it_is_open():
    with open("a", "w+b") as file:
        file.write(b"before")
        file.flush()
        os.unlink("a")
        file.write(b" after")
        file.seek(0)
        assert file.read() == b"before after"
        assert os.fstat(file.fileno()).st_nlink == 0


@check
def a_replaced_file_is_there_while_it_is_open():
    write("a", b"old")
    write("b", b"new")
    with open("a", "rb") as file:
        os.rename("b", "a")
        assert file.read() == b"old" and read("a") == b"new"


@check
def a_file_without_a_name_gets_one():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"nameless")
    assert os.listdir(".") == []
    follow = 0x400
    if libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"named", follow) != 0:
        raise OSError(ctypes.get_errno(), "linkat")
    assert read("named") == b"nameless"


@check
def appending_is_at_the_end_whoever_appends():
    write("a", b"")

    def append(letter):
        with open("a", "ab", buffering=0) as file:
            for _ in range(200):
                file.write(letter * 10)

    threads = [threading.Thread(target=append, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = read("a")
    assert len(content) == 8000
    assert all(len(set(content[at : at + 10])) == 1 for at in range(0, 8000, 10))


@check
def o_excl_is_one_s():
    write("a")
    fails(errno.EEXIST, os.open, "a", os.O_CREAT | os.O_EXCL)
    os.symlink("nowhere", "link")
    fails(errno.EEXIST, os.open, "link", os.O_CREAT | os.O_EXCL)
    fails(errno.ELOOP, os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
    fails(errno.ENOTDIR, os.open, "a", os.O_DIRECTORY)


@check
def truncation_leaves_zeros():
    write("a", b"x" * 5000)
    os.truncate("a", 100)
    os.truncate("a", 9000)
    assert read("a") == b"x" * 100 + bytes(8900)
    fails(errno.EINVAL, os.truncate, "a", -1)


@check
def holes_are_zeros_and_found():
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"end", 1 << 20)
    assert os.fstat(fd).st_size == (1 << 20) + 3
    assert os.pread(fd, 10, 500_000) == bytes(10)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
    assert 0 < os.lseek(fd, 0, os.SEEK_DATA) <= 1 << 20


@check
def space_is_allocated_and_given_back():
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, 1 << 20)
    stat = os.fstat(fd)
    assert stat.st_size == 1 << 20 and stat.st_blocks * 512 >= 1 << 20, stat
    os.pwrite(fd, b"x" * 4096 * 4, 0)
    keep_and_punch = 1 | 2
    if libc.fallocate(fd, keep_and_punch, ctypes.c_long(4096), ctypes.c_long(8192)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")
    assert os.pread(fd, 4 * 4096, 0) == b"x" * 4096 + bytes(8192) + b"x" * 4096


@check
def large_offsets_are_possible():
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"far", 1 << 40)
    assert os.pread(fd, 3, 1 << 40) == b"far" and os.fstat(fd).st_size == (1 << 40) + 3


@check
def several_buffers_are_written_at_once():
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    assert os.pwritev(fd, [b"ab", b"", b"cde"], 7) == 5
    assert read("a") == bytes(7) + b"abcde"


@check
def a_copy_in_the_kernel_is_a_copy():
    write("a", os.urandom(300_000))
    with open("a", "rb") as source, open("b", "wb") as sink:
        while os.copy_file_range(source.fileno(), sink.fileno(), 1 << 20) > 0:
            pass
    assert read("a") == read("b")
    with open("a", "rb") as source, open("c", "wb") as sink:
        while os.sendfile(sink.fileno(), source.fileno(), None, 1 << 20) > 0:
            pass
    assert read("a") == read("c")


@check
def a_fifo_and_a_socket_work():
    os.mkfifo("fifo")
    reader = threading.Thread(target=lambda: results.append(read("fifo")))
    results = []
    reader.start()
    with open("fifo", "wb") as fifo:
        fifo.write(b"through")
    reader.join()
    assert results == [b"through"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("socket")
            server.accept()[0].sendall(b"hello")
            assert client.recv(5) == b"hello"
    assert stat.S_ISSOCK(os.stat("socket").st_mode)


# Maps.


@check
def what_is_mapped_is_what_is_read():
    write("a", bytes(8192))
    fd = os.open("a", os.O_RDWR)
    with mmap.mmap(fd, 8192) as map:
        map[5000:5005] = b"hello"
        assert os.pread(fd, 5, 5000) == b"hello"
        os.pwrite(fd, b"there", 100)
        assert map[100:105] == b"there"
        map.flush()
    assert read("a")[5000:5005] == b"hello"


@check
def a_private_map_is_nobody_s_business():
    write("a", b"x" * 4096)
    with open("a", "r+b") as file, mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE) as map:
        map[:3] = b"yyy"
        assert read("a") == b"x" * 4096


@check
def a_map_beyond_the_end_is_sigbus():
    write("a", bytes(8192))
    child = os.fork()
    if child == 0:
        with open("a", "r+b") as file:
            map = mmap.mmap(file.fileno(), 8192)
            os.truncate("a", 0)
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            map[0]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS


@check
def a_program_is_run_from_there_and_not_written_meanwhile():
    shutil.copy("/usr/bin/sleep", "program")
    process = subprocess.Popen(["./program", "100"])
    try:
        fails(errno.ETXTBSY, os.open, "program", os.O_WRONLY)
    finally:
        process.kill()
        process.wait()


# Times.


@check
def times_are_kept_to_the_nanosecond():
    write("a")
    os.utime("a", ns=(123_456_789_012_345_678, 1_000_000_000_000_000_001))
    found = os.stat("a")
    assert (found.st_atime_ns, found.st_mtime_ns) == (123_456_789_012_345_678, 1_000_000_000_000_000_001)


@check
def a_write_changes_times():
    write("a")
    os.utime("a", (1, 1))
    before = os.stat("a")
    time.sleep(0.02)
    write("a", b"more")
    after = os.stat("a")
    assert after.st_mtime > 1 and after.st_ctime_ns > before.st_ctime_ns


@check
def a_new_name_changes_its_directory_s_times():
    os.mkdir("d")
    os.utime("d", (1, 1))
    write("d/a")
    assert os.stat("d").st_mtime > 1


@check
def a_mode_changes_the_change_time_alone():
    write("a")
    before = os.stat("a")
    time.sleep(0.02)
    os.chmod("a", 0o600)
    after = os.stat("a")
    assert after.st_mtime_ns == before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns


# Rights.


@check
def modes_are_kept():
    write("a")
    os.mkdir("d")
    for mode in (0o000, 0o777, 0o4755, 0o2755, 0o644):
        os.chmod("a", mode)
        assert stat.S_IMODE(os.stat("a").st_mode) == mode, oct(mode)
    os.chmod("d", 0o3777)
    assert stat.S_IMODE(os.stat("d").st_mode) == 0o3777


@check
def the_umask_counts():
    before = os.umask(0o027)
    try:
        os.close(os.open("a", os.O_CREAT, 0o666))
        os.mkdir("d")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("a").st_mode) == 0o640
    assert stat.S_IMODE(os.stat("d").st_mode) == 0o750


@check
def owners_are_kept():
    write("a")
    os.chown("a", 1234, 4321)
    assert (os.stat("a").st_uid, os.stat("a").st_gid) == (1234, 4321)
    os.symlink("a", "link")
    os.lchown("link", 5, 6)
    assert (os.lstat("link").st_uid, os.stat("a").st_uid) == (5, 1234)


@check
def a_user_s_file_is_the_user_s():
    os.chmod(".", 0o777)
    as_user(lambda: write("a"))
    assert os.stat("a").st_uid == 1000 and os.stat("a").st_gid == 1000


@check
def rights_are_refused():
    write("secret", mode=0o600)
    write("public", mode=0o644)
    os.mkdir("closed", 0o700)
    os.chmod(".", 0o755)

    def user():
        fails(errno.EACCES, read, "secret")
        assert read("public") == b"content"
        fails(errno.EACCES, write, "new")
        fails(errno.EACCES, os.listdir, "closed")
        fails(errno.EACCES, os.unlink, "public")
        fails(errno.EPERM, os.chmod, "public", 0o777)
        fails(errno.EPERM, os.chown, "public", 1000, 1000)

    as_user(user)


@check
def groups_count():
    write("a", mode=0o640)
    os.chown("a", 0, 77)
    as_user(lambda: read("a"), groups=[77])
    as_user(lambda: fails(errno.EACCES, read, "a"), groups=[78])


@check
def in_a_sticky_directory_what_is_another_s_stays():
    os.mkdir("d")
    os.chmod("d", 0o1777)
    as_user(lambda: write("d/a"), uid=1000)
    as_user(lambda: fails(errno.EPERM, os.unlink, "d/a"), uid=1001)
    as_user(lambda: fails(errno.EPERM, os.rename, "d/a", "d/b"), uid=1001)
    as_user(lambda: os.unlink("d/a"), uid=1000)


@check
def a_setgid_directory_s_group_is_inherited():
    os.mkdir("d")
    os.chown("d", 0, 77)
    os.chmod("d", 0o2777)
    as_user(lambda: write("d/a"))
    as_user(lambda: os.mkdir("d/d"))
    assert os.stat("d/a").st_gid == 77 and os.stat("d/d").st_gid == 77
    assert os.stat("d/d").st_mode & stat.S_ISGID


@check
def a_write_takes_setuid_away():
    write("a", mode=0o777)
    os.chmod("a", 0o6777)

    def user():
        with open("a", "ab") as file:
            file.write(b"x")

    as_user(user)
    assert os.stat("a").st_mode & 0o6000 == 0


@check
def another_owner_takes_setuid_away():
    write("a")
    os.chmod("a", 0o6755)
    os.chown("a", 1000, 1000)
    assert os.stat("a").st_mode & 0o6000 == 0


@check
def setuid_programs_are_their_owner_s():
    shutil.copy("/usr/bin/id", "id")
    os.chown("id", 1234, 1234)
    os.chmod("id", 0o4755)
    assert subprocess.run(["./id", "-u"], capture_output=True).stdout == b"1234\n"


@check
def devices_are_made_and_work():
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert os.stat("null").st_rdev == os.makedev(1, 3)


# Attributes.


@check
def user_attributes_are_kept():
    write("a")
    os.setxattr("a", "user.one", b"1")
    os.setxattr("a", "user.two", bytes(range(256)))
    assert os.getxattr("a", "user.two") == bytes(range(256))
    assert {"user.one", "user.two"} <= set(os.listxattr("a"))
    os.removexattr("a", "user.one")
    fails(errno.ENODATA, os.getxattr, "a", "user.one")
    fails(errno.EEXIST, os.setxattr, "a", "user.two", b"", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, "a", "user.x", b"", os.XATTR_REPLACE)


@check
def root_s_attributes_are_root_s():
    write("a")
    os.setxattr("a", "trusted.mine", b"x")
    as_user(lambda: fails(errno.ENODATA, os.getxattr, "a", "trusted.mine"))
    assert os.getxattr("a", "trusted.mine") == b"x"


@check
def file_capabilities_work():
    shutil.copy("/usr/bin/python3", "python")
    subprocess.run(["setcap", "cap_dac_read_search=ep", "python"], check=True)
    write("secret", mode=0o600)
    as_user(lambda: subprocess.run(["./python", "-c", "open('secret')"], check=True))


@check
def a_list_of_rights_counts():
    write("a", mode=0o600)
    subprocess.run(["setfacl", "-m", "u:1000:r", "a"], check=True)
    as_user(lambda: read("a"))
    as_user(lambda: fails(errno.EACCES, read, "a"), uid=1001)


@check
def an_immutable_or_append_only_file_is_refused_or_is_so():
    write("a")
    subprocess.run(["chattr", "+a", "a"], check=True, capture_output=True)
    fails(errno.EPERM, os.open, "a", os.O_WRONLY)
    with open("a", "ab") as file:
        file.write(b"x")
    subprocess.run(["chattr", "-a", "a"], check=True, capture_output=True)


# Locks and watching.


@check
def flock_excludes_within_the_guest():
    write("a")
    with open("a") as one, open("a") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@check
def record_locks_exclude_within_the_guest():
    write("a", bytes(100))
    with open("a", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        child = os.fork()
        if child == 0:
            with open("a", "r+b") as other:
                fails(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@check
def a_change_is_told():
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, b".", 0x100) >= 0
    write("a")
    assert b"a\0" in os.read(watch, 4096)
    os.close(watch)


@check
def the_size_of_the_file_system_is_told():
    found = os.statvfs(".")
    assert found.f_blocks > 0 and found.f_bavail > 0 and found.f_namemax == 255


@check
def synced_is_synced():
    fd = os.open("a", os.O_CREAT | os.O_RDWR | os.O_DSYNC)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    directory = os.open(".", os.O_DIRECTORY)
    os.fsync(directory)
    libc.syncfs(fd)


@check
def direct_writes_are_read():
    fd = os.open("a", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 8192) as buffer:
        buffer[:] = b"d" * 8192
        assert os.write(fd, buffer) == 8192
    assert read("a") == b"d" * 8192


def attempt(function, place):
    """Runs a check in an empty directory of a place, in a process of its own: why it failed, or nothing."""
    directory = os.path.join(place, function.__name__)
    os.mkdir(directory)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.umask(0o022)
        os.chdir(directory)
        signal.alarm(120)
        try:
            function()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}"[:200].encode() or b"?")
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    shutil.rmtree(directory, ignore_errors=True)
    return said or (f"ended by {-status}" if status else "")


def main():
    wanted = sys.argv[1:]
    os.makedirs("/tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "none", "/tmpfs"], check=True)
    os.makedirs("/theirs")
    subprocess.run(["mount", "-t", "virtiofs", "theirs", "/theirs"], check=True)
    surprises = 0
    for name, place in PLACES.items():
        place = os.path.join(place, "checks")
        os.mkdir(place)
        passed = 0
        for function in checks:
            if wanted and function.__name__ not in wanted:
                continue
            why = attempt(function, place)
            passed += not why
            if why:
                known = KNOWN[name].get(function.__name__)
                surprises += known is None
                print(f"{name}: {function.__name__}: {why}: {known or 'UNEXPECTED'}", flush=True)
        print(f"{name}: {passed} of {len(wanted or checks)} checks pass", flush=True)
    sys.exit(surprises > 0)


main()
