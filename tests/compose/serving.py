"""The stand-ins of Kafka, ZooKeeper and MongoDB as images of their own, for a test of each as a container.

Nothing is pulled, and no container runs to make them: busybox, this host's bash, a Java runtime, and the same scripts
and jars as by `standins/Dockerfile`. They are one archive, made once a machine, in which all share the runtime's layer.
"""

from __future__ import annotations

import asyncio
import platform
import re
from pathlib import Path

import aiodocker

from infra.images import archive, build
from infra.images.archive import Entry, Image, ImageConfig, images_archive, layer
from infra.kafka.provisioner import kafka_libs
from infra.mongo.provisioner import mongo_libs
from infra.provision import process
from infra.provision.cache import cached
from tests.compose import java

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "standins"
KAFKA = REPOSITORY / "infra/kafka"
MONGO = REPOSITORY / "infra/mongo"
BASH = Path("/bin/bash")
LDD_S = 30.0
IMAGES = {kind: f"gantry-test-{kind}:local" for kind in ("kafka", "mongo", "zookeeper")}
"""Kind of server → the image's name."""

# A test's server is gone before the second compiler's work pays.
ENV = ("PATH=/usr/local/bin:/bin", "JDK_JAVA_OPTIONS=-XX:TieredStopAtLevel=1")
# User and volumes are the upstream images', but that those of ZooKeeper and MongoDB leave root by themselves.
CONFIGS = {
    "kafka": ImageConfig(
        entrypoint=("/opt/kafka/bin/kafka-run",),
        user="1000:1000",
        env=ENV,
        volumes=("/var/lib/kafka/data",),
    ),
    "mongo": ImageConfig(entrypoint=(), env=ENV, volumes=("/data/db", "/data/configdb")),
    "zookeeper": ImageConfig(entrypoint=("zookeeper-run",), env=ENV, volumes=("/data", "/datalog")),
}


async def load_images(engine_url: str) -> dict[str, str]:
    """Brings IMAGES into the engine. Raises CommandError, DockerError, MissingToolError."""
    scripts = sorted(each for each in SCRIPTS.iterdir() if each.is_file())
    modules = [Path(each.__file__ or "") for each in (archive, build, java)]
    recipe = [Path(__file__), *modules, *scripts, KAFKA / "pom.xml", KAFKA / "log4j.properties"]
    recipe += [MONGO / "pom.xml", MONGO / "MongoMain.java"]
    recipe += [java.jdk_release(), *java.zookeeper_jars()]
    made = await cached("server-images", recipe, _make)
    async with aiodocker.Docker(url=engine_url) as docker:
        with (made / "images.tar").open("rb") as images:
            await docker.images.import_image(images)
    return IMAGES


async def _make(directory: Path) -> None:
    jre = await java.java_runtime()
    said = await process.run(
        ("ldd", BASH, jre / "bin/java", jre / "lib/server/libjvm.so"), timeout_s=LDD_S
    )
    needed = {Path(name) for name in re.findall(r"(/\S+) \(0x", said)}
    kafka = await kafka_libs()
    mongo = await mongo_libs()

    def write() -> None:
        libraries = sorted(each for each in needed if not each.is_relative_to(jre))
        below = [build.base_layer(), layer([*_runtime(jre, libraries), *_script("java")])]
        own = {"kafka": _kafka(kafka), "mongo": _mongo(mongo), "zookeeper": _zookeeper()}
        images = [
            Image([*below, layer(own[kind])], CONFIGS[kind], [name])
            for kind, name in IMAGES.items()
        ]
        machine = platform.machine()
        content = images_archive(images, build.ARCHITECTURES.get(machine, machine))
        (directory / "images.tar").write_bytes(content)

    await asyncio.to_thread(write)


def _runtime(jre: Path, libraries: list[Path]) -> list[Entry]:
    """Java, bash, the libraries of both, and of busybox' commands the one that the samples do without."""
    files = [Entry(str(each)[1:], each.read_bytes()) for each in (BASH, *libraries)]
    return [*_tree(jre, "opt/jre"), *files, Entry("bin/grep", "busybox")]


def _kafka(libs: Path) -> list[Entry]:
    settings = Entry("opt/kafka/log4j.properties", (KAFKA / "log4j.properties").read_bytes(), 0o644)
    data = Entry("var/lib/kafka/data", mode=0o777)
    script = _script("kafka-run", "opt/kafka/bin")
    return [*_tree(libs / "libs", "opt/kafka/libs"), settings, data, *script]


def _mongo(libs: Path) -> list[Entry]:
    trees = [*_tree(libs / "libs", "opt/mongo/libs"), *_tree(libs / "classes", "opt/mongo/classes")]
    return [*trees, Entry("data/db"), Entry("data/configdb"), *_script("mongod")]


def _zookeeper() -> list[Entry]:
    jars = [
        Entry(f"opt/zookeeper/{each.name}", each.read_bytes(), 0o644)
        for each in java.zookeeper_jars()
    ]
    return [*jars, Entry("data"), Entry("datalog"), *_script("zookeeper-run")]


def _script(name: str, directory: str = "usr/local/bin") -> list[Entry]:
    return [Entry(f"{directory}/{name}", (SCRIPTS / name).read_bytes())]


def _tree(root: Path, at: str) -> list[Entry]:
    """The files below root, links followed."""
    files = (each for each in sorted(root.rglob("*")) if each.is_file())
    return [
        Entry(f"{at}/{each.relative_to(root)}", each.read_bytes(), each.stat().st_mode)
        for each in files
    ]
