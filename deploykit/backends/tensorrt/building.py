"""The builder side of the dialects: networks, configurations, and plans made of both.

What differs, and where it was seen: 8.6 wants EXPLICIT_BATCH and chooses types within what flags allow; 10 takes the
graph's types where STRONGLY_TYPED is asked for; 11 always does, its enum has neither EXPLICIT_BATCH nor the flags FP16
and INT8; TensorRT-RTX has target GPUs and ignores some of the rest. An option that a version lacks is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from deploykit.backends.tensorrt.dialect import Dialect, dims, perhaps
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values import BatchRange, BuildOptions, Precision

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]

TYPE_FLAGS: Final[dict[Precision, str]] = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""What a graph's types call for where the library chooses types by itself."""


class Building:
    """One library's builder."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        mark = dialect.log.count
        try:
            self._builder = dialect.trt.Builder(dialect.logger)
        except TypeError as error:  # pybind11's word for a constructor that gave nullptr
            reason = "; ".join(dialect.log.errors(mark)) or "it does not say why"
            what = f"{dialect.title} gives no builder: {reason}."
            raise BackendError(what, "See what `deploykit doctor` says of the GPU and its driver.") from error

    def network(self) -> tensorrt.INetworkDefinition:
        """An empty network whose types are its own, as far as the version can."""
        flags = (self.dialect.member("NetworkDefinitionCreationFlag", name) for name in self.network_flags)
        return self._builder.create_network(sum(1 << int(flag) for flag in flags))

    @property
    def network_flags(self) -> tuple[str, ...]:
        """What networks are created with, in the library's words."""
        wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        return tuple(name for name in wanted if self.dialect.member("NetworkDefinitionCreationFlag", name) is not None)

    def parser(self, network: tensorrt.INetworkDefinition) -> tensorrt.OnnxParser:
        """A parser that fills the network, and must live as long: constants stay in the parser's memory."""
        return self.dialect.trt.OnnxParser(network, self.dialect.logger)

    def config(self) -> Config:
        """How a network is to be built; nothing is asked for yet but what every engine of ours gets."""
        return Config(self.dialect, self._builder)

    def serialized(self, network: tensorrt.INetworkDefinition, config: Config) -> tensorrt.IHostMemory | None:
        """The plan, as memory with a buffer that the library owns; None where it failed or was stopped."""
        return perhaps(self._builder.build_serialized_network(network, config.handle))


class Config:
    """An IBuilderConfig, and what was set in it."""

    def __init__(self, dialect: Dialect, builder: tensorrt.Builder) -> None:
        self.handle = builder.create_builder_config()
        self._dialect, self._builder = dialect, builder
        self._settings: list[str] = []
        self.handle.clear_flag(dialect.trt.BuilderFlag.TF32)
        self._settings.append("TF32 off")  # it is on by default: what is typed FP32 would be multiplied in 10 bits
        self.handle.profiling_verbosity = dialect.trt.ProfilingVerbosity.DETAILED  # the inspector then tells all
        self._settings.append("DETAILED")

    @property
    def settings(self) -> tuple[str, ...]:
        """Every flag and limit that was set, as the library calls it."""
        return tuple(self._settings)

    def allow(self, types: Collection[Precision]) -> None:
        """Set the flags that the graph's types call for, where the network is not strongly typed: what they allow, the
        library may use anywhere in it.
        """
        for word, flag in TYPE_FLAGS.items():
            if word in types:
                self._flag(flag, f"{word.upper()} arithmetic", "Export the graph at another precision.")

    def profile(self, shapes: Mapping[str, tuple[Shape, Shape, Shape]]) -> None:
        """The smallest, best and largest shape of every input whose shape is free."""
        if not shapes:
            return
        profile = self._builder.create_optimization_profile()
        for name, (smallest, best, largest) in shapes.items():
            profile.set_shape(name, dims(smallest), dims(best), dims(largest))
            self._settings.append(f"{name} {_said(smallest)} … {_said(best)} … {_said(largest)}")
        self.handle.add_optimization_profile(profile)
        self._share_profile()

    def _share_profile(self) -> None:
        """Let several contexts of the engine use its only profile at once. From 10 on they always may: the feature is
        deprecated there, and gone in 11. Bindings by number left in 10 too, and so tell 8.6.
        """
        sharing = self._dialect.member("PreviewFeature", "PROFILE_SHARING_0806")
        if sharing is not None and self._dialect.has("ICudaEngine", "num_bindings"):
            self.handle.set_preview_feature(sharing, True)
            self._settings.append("PROFILE_SHARING_0806")

    def apply(self, options: BuildOptions, network: tensorrt.INetworkDefinition) -> None:
        """All options; the batch has its own method, and that is called before: layers go to the accelerator by their
        shapes. BackendError for an option that this version, or this machine, does not have.
        """
        if options.workspace_mib is not None:
            self._workspace(options.workspace_mib)
        if options.optimization_level is not None:
            self._level(options.optimization_level)
        if options.version_compatible:
            self._flag("VERSION_COMPATIBLE", "version-compatible engines", "Build without --version-compatible.")
        if options.hardware_compatible:
            self._any_ampere()
        if options.strip_weights:
            self._flag("STRIP_PLAN", "engines without weights", "Build without --strip-weights.")
        if options.refittable:
            self._flag("REFIT", "refittable engines", "Build without --refittable.")
        elif options.strip_weights:
            self._flag("REFIT_IDENTICAL", "refit with the same weights", "Build without --strip-weights.")
        if options.compute_capabilities:
            self._targets(options.compute_capabilities)
        if options.dla_core is not None:
            self._accelerator(options.dla_core, options.batch, network)

    def _workspace(self, mib: int) -> None:
        if mib < 1:
            raise UsageError(f"A workspace of {mib} MiB cannot be.", "Give at least 1 MiB, or leave it out.")
        pool = self._dialect.trt.MemoryPoolType.WORKSPACE
        self.handle.set_memory_pool_limit(pool, mib << 20)
        granted = self.handle.get_memory_pool_limit(pool)
        if granted != mib << 20:  # more than the GPU has is an error in the log, and then ignored
            what = f"{self._dialect.title} does not grant a workspace of {mib} MiB."
            raise BackendError(what, f"Ask for up to {granted >> 20} MiB, or leave it out.")
        self._settings.append(f"WORKSPACE {mib} MiB")

    def _level(self, level: int) -> None:
        self.handle.builder_optimization_level = level
        if self.handle.builder_optimization_level != level:  # seen in 1.7.1: 9 becomes 5 without a word
            raise self._dialect.lacks(f"optimization level {level}", "Choose 0 to 5.")
        self._settings.append(f"builder_optimization_level {level}")

    def _any_ampere(self) -> None:
        if self._dialect.rtx:  # 1.7.1 warns that it is unsupported, and goes on
            remedy = "Leave it out: its engines run on every GPU from Ampere on, unless they are built for fewer."
            raise self._dialect.lacks("hardware compatibility level", remedy)
        self.handle.hardware_compatibility_level = self._dialect.trt.HardwareCompatibilityLevel.AMPERE_PLUS
        self._settings.append("AMPERE_PLUS")

    def _targets(self, capabilities: tuple[int, ...]) -> None:
        if not self._dialect.has("IBuilderConfig", "set_compute_capability"):
            remedy = "It builds for the GPU that it runs on; for others take --target tensorrt-rtx."
            raise self._dialect.lacks("compute capabilities to build for", remedy)
        known = [name for name in self._dialect.members("ComputeCapability") if name.startswith("SM")]
        for capability in capabilities:
            if f"SM{capability}" not in known:
                choices = ", ".join(name.removeprefix("SM") for name in known)
                raise self._dialect.lacks(f"compute capability {capability}", f"Choose from {choices}.")
        config: Any = self.handle  # the stubs are TensorRT's: what TensorRT-RTX alone has is not in them
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            target = self._dialect.member("ComputeCapability", f"SM{capability}")
            if not config.set_compute_capability(target, index):
                raise self._dialect.lacks(f"engines for compute capability {capability}", "Leave it out.")
            self._settings.append(f"SM{capability}")

    def _accelerator(self, core: int, batch: BatchRange, network: tensorrt.INetworkDefinition) -> None:
        if not batch.static:
            asked, best = f"{batch.minimum}:{batch.optimum}:{batch.maximum}", ":".join([str(batch.optimum)] * 3)
            what = f"A deep-learning accelerator takes one batch size, and {asked} was asked for."
            raise UsageError(what, f"Give --batch {best}.")
        cores = self._builder.num_DLA_cores
        if not 0 <= core < cores:
            there = f"cores 0 to {cores - 1}" if cores else "no deep-learning accelerator"
            what = f"{self._dialect.title} finds {there} on this machine, and DLA core {core} was asked for."
            raise BackendError(what, "Build without --dla-core." if not cores else "Choose one of them.")
        self.handle.default_device_type = self._dialect.trt.DeviceType.DLA
        self.handle.DLA_core = core
        self.handle.set_flag(self._dialect.trt.BuilderFlag.GPU_FALLBACK)
        layers = (network.get_layer(index) for index in range(network.num_layers))
        fallen = [layer.name for layer in layers if not self.handle.can_run_on_DLA(layer)]
        self._settings += [f"DLA core {core}", f"GPU_FALLBACK: {', '.join(fallen) or 'no layer'}"]

    def watch(self, monitor: tensorrt.IProgressMonitor) -> None:
        """Tell the monitor how far the build is. 8.6 has no monitors; ask `Dialect.has` first."""
        self.handle.progress_monitor = monitor

    @property
    def keeps_timings(self) -> bool:
        """Whether tactics are timed, so that timings can be kept. TensorRT-RTX has the methods and does nothing."""
        return not self._dialect.rtx

    def use_timings(self, blob: bytes) -> None:
        """Start from these timings, or from none where they are empty, damaged or another GPU's."""
        cache = perhaps(self.handle.create_timing_cache(blob))
        if cache is None or not self.handle.set_timing_cache(cache, False):
            self.handle.set_timing_cache(self.handle.create_timing_cache(b""), False)

    def timings(self, others: bytes) -> bytes | None:
        """What is known after the build, together with what others have timed meanwhile; None: nothing."""
        cache = perhaps(self.handle.get_timing_cache())
        if cache is None:
            return None
        theirs = perhaps(self.handle.create_timing_cache(others))
        if others and theirs is not None:
            cache.combine(theirs, False)
        return bytes(memoryview(cache.serialize()))

    def _flag(self, name: str, meaning: str, remedy: str) -> None:
        flag = self._dialect.member("BuilderFlag", name)
        if flag is None:
            raise self._dialect.lacks(meaning, remedy)
        self.handle.set_flag(flag)
        self._settings.append(name)


def _said(shape: Shape) -> str:
    return "×".join(map(str, shape))
