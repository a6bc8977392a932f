"""A server with a database, its clients, and what the system says of them."""

import os
import socketserver
import socket
import sqlite3
import subprocess
import sys
import threading

ROWS = 500


class Store(socketserver.StreamRequestHandler):
    """Keeps every line that it is sent, and says how many there are."""

    def handle(self):
        with sqlite3.connect("lines.db", timeout=60) as database:
            for line in self.rfile:
                database.execute("insert into lines (text) values (?)", (line.decode(),))
            database.commit()
            (count,) = database.execute("select count(*) from lines").fetchone()
        database.close()
        self.wfile.write(b"%d\n" % count)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True


def client(address, name):
    with socket.create_connection(address) as stream:
        for row in range(ROWS):
            stream.sendall(b"%s %d\n" % (name, row))
        stream.shutdown(socket.SHUT_WR)
        assert int(stream.makefile().readline()) >= ROWS


def main():
    assert os.getuid() != 0
    database = sqlite3.connect("lines.db")
    database.execute("pragma journal_mode = wal")
    database.execute("create table lines (id integer primary key, text text)")
    database.commit()
    with Server(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever).start()
        clients = [
            threading.Thread(target=client, args=(server.server_address, name))
            for name in (b"one", b"two", b"three")
        ]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        server.shutdown()
    (count,) = database.execute("select count(distinct text) from lines").fetchone()
    assert count == 3 * ROWS, count
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getppid())"], capture_output=True, check=True
    )
    assert int(child.stdout) == os.getpid()
    print(f"python: {count} rows")


main()
