"""init, serve, work: the life of an installation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from icecore import config as home
from icecore.cli import screens
from icecore.cli.output import Output
from icecore.cli.secret import new_passphrase


def init(options: Namespace, output: Output) -> None:
    from icecore.app import initialise

    place: Path = (options.home or home.default_home()).absolute()
    passphrase = new_passphrase(output) if options.passphrase else None
    settings, existed = place / "icecore.toml", (place / "icecore.toml").exists()
    try:
        key = initialise(
            place,
            repository=options.repo,
            encrypted=not options.unencrypted,
            passphrase=passphrase,
            listen=options.listen,
        )
    except BaseException:
        if not existed:
            settings.unlink(missing_ok=True)  # half a home is none: the next try must not find one
        raise
    made = home.load(place)
    opened_by = "nothing: it is not encrypted"
    if made.encrypted:
        opened_by = "the passphrase" if passphrase else str(made.repository_key)
    text = screens.facts(
        [
            ("Home", str(made.home)),
            ("Repository", str(made.repository)),
            ("Opened by", opened_by),
            ("AccessKeyId", key.access_key_id),
            ("AccessKeySecret", f"{key.access_key_secret}   (shown this once; the home keeps a copy for its owner)"),
        ]
    )
    say_home = "" if made.home == home.default_home().absolute() else f" --home {made.home}"
    steps = [
        f"icecore{say_home} serve",
        f"icecore{say_home} cluster add NAME --dsn 'host=/var/run/postgresql user=postgres dbname=postgres'",
        f"icecore{say_home} backup NAME",
    ]
    if made.encrypted and not passphrase:
        steps.append(f"icecore{say_home} repo key export FILE   # without this key no backup can be read: keep a copy")
    text += "\nNext:\n" + "".join(f"  {step}\n" for step in steps)
    document = {
        "AccessKeyId": key.access_key_id,
        "AccessKeySecret": key.access_key_secret,
        "Home": str(made.home),
        "Endpoint": f"http://{made.listen}",
        "Repository": str(made.repository),
        "RepositoryKey": str(made.repository_key) if made.encrypted and not passphrase else "",
    }
    output.result(text, document)


def serve(options: Namespace, output: Output) -> None:
    from icecore import serve as serving

    if bool(options.tls_cert) != bool(options.tls_key) or (options.tls_cert and options.tls_self_signed):
        from icecore import errors

        raise errors.Usage(reason="TLS takes --tls-cert with --tls-key, or --tls-self-signed alone")
    serving.log_to_stderr("warning" if output.quiet else "info")
    serving.serve(
        home.load(options.home or home.default_home()),
        listen=options.listen,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        self_signed=options.tls_self_signed,
        with_worker=not options.no_worker,
        announce=lambda endpoint: output.result(
            f"Icecore answers at {endpoint}; its console is {endpoint}/console (`icecore console` signs you in)",
            {"Endpoint": endpoint},
        ),
    )


def work(options: Namespace, output: Output) -> None:
    from icecore import serve as serving

    serving.log_to_stderr("warning" if output.quiet else "info")
    serving.work(
        home.load(options.home or home.default_home()),
        announce=lambda name: output.result(f"Worker {name} runs jobs", {"Worker": name}),
    )
