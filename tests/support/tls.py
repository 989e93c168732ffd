"""TLS in front of the real PostgreSQL and Redis, which the dev stack's builds of them cannot do themselves."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A self-signed certificate for an IP address, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def make_bare_certificate(folder: Path, address: str) -> tuple[Path, Path, str]:
    """A certificate as Memorystore's: signed by an authority of its own, the address in its common name, no extensions.

    Gives certificate and key as PEM files, and the authority's certificate as PEM text.
    """
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in ("an authority", address)]
    builders = [
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(names[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        for name, key in zip(names, keys, strict=True)
    ]
    authority = builders[0].add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = [each.sign(keys[0], hashes.SHA256()) for each in (authority, builders[1])]
    certificate_file, key_file = folder / "bare.pem", folder / "bare-key.pem"
    certificate_file.write_bytes(signed[1].public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_file, key_file, signed[0].public_bytes(serialization.Encoding.PEM).decode()


class TlsFront:
    """Hands what comes out of the TLS on to a server without; with `asked`, only after PostgreSQL's request for TLS."""

    def __init__(self, server: tuple[str, int], certificate: Path, key: Path, *, asked: bool = True) -> None:
        self._server = server
        self._asked = asked
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.encrypted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._asked:
                assert client.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
                client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as inside:
                self.encrypted += 1
                with socket.create_connection(self._server) as server:
                    back = threading.Thread(target=_copy, args=(server, inside), daemon=True)
                    back.start()
                    _copy(inside, server)
                    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
