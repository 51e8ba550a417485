"""Wraps the library's builder: networks, builder configurations, serialized engines.

Observed differences: 8.6 needs EXPLICIT_BATCH and chooses types within what the flags allow; 10 keeps the graph's types
where STRONGLY_TYPED is set; 11 always does, and its enums have neither EXPLICIT_BATCH nor the flags FP16 and INT8;
TensorRT-RTX has target GPUs and ignores some other options. An option that a version lacks is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from deploykit.backends.tensorrt.dialect import Dialect, or_none, to_dims
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.shapes import format_shape
from deploykit.core.values import BatchRange, BuildOptions, Precision

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]

TYPE_FLAGS: Final[dict[Precision, str]] = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""Builder flags by the graph's types, needed where the library chooses types by itself."""


class Builder:
    """One library's builder."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        logged = dialect.log.count
        try:
            self._builder = dialect.trt.Builder(dialect.logger)
        except TypeError as error:  # pybind11's error for a constructor that returned nullptr
            reason = "; ".join(dialect.log.errors_since(logged)) or "it gives no reason"
            what = f"{dialect.title} could not create a builder: {reason}."
            raise BackendError(what, "Check the GPU and its driver: deploykit doctor.") from error

    def create_network(self) -> tensorrt.INetworkDefinition:
        """Create an empty network, strongly typed where the version supports it."""
        flags = (self.dialect.find_member("NetworkDefinitionCreationFlag", name) for name in self.network_flags)
        return self._builder.create_network(sum(1 << int(flag) for flag in flags))

    @property
    def network_flags(self) -> tuple[str, ...]:
        """Creation flags of networks, by the library's name."""
        wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        return tuple(
            name for name in wanted if self.dialect.find_member("NetworkDefinitionCreationFlag", name) is not None
        )

    def create_parser(self, network: tensorrt.INetworkDefinition) -> tensorrt.OnnxParser:
        """Create a parser that fills the network. Keep it alive as long: it owns the memory of the constants."""
        return self.dialect.trt.OnnxParser(network, self.dialect.logger)

    def create_config(self) -> Config:
        """Create a configuration with the settings that all engines share."""
        return Config(self.dialect, self._builder)

    def build_serialized(self, network: tensorrt.INetworkDefinition, config: Config) -> tensorrt.IHostMemory | None:
        """Build the plan, as memory that the library owns; None where the build failed or was stopped."""
        return or_none(self._builder.build_serialized_network(network, config.handle))


class Config:
    """An IBuilderConfig and a list of its settings."""

    def __init__(self, dialect: Dialect, builder: tensorrt.Builder) -> None:
        self.handle = builder.create_builder_config()
        self._dialect, self._builder = dialect, builder
        self._settings: list[str] = []
        self.handle.clear_flag(dialect.trt.BuilderFlag.TF32)
        self._settings.append("TF32 off")  # on by default: FP32 would be multiplied with 10 bits of mantissa
        self.handle.profiling_verbosity = dialect.trt.ProfilingVerbosity.DETAILED  # needed by the inspector
        self._settings.append("DETAILED")

    @property
    def settings(self) -> tuple[str, ...]:
        """Every flag and limit that was set, by the library's name."""
        return tuple(self._settings)

    def allow_types(self, types: Collection[Precision]) -> None:
        """Set the flags for the graph's types, where the network is not strongly typed: the library may then use these
        types in any layer.
        """
        for precision, flag in TYPE_FLAGS.items():
            if precision in types:
                self._set_flag(flag, f"{precision.upper()} arithmetic", "Export the graph at another precision.")

    def set_profile(self, shapes: Mapping[str, tuple[Shape, Shape, Shape]]) -> None:
        """Set the minimum, optimal and maximum shape of every input with a dynamic shape. BackendError where the
        library rejects them together, which it says by a negative index only.
        """
        if not shapes:
            return
        profile = self._builder.create_optimization_profile()
        for name, (minimum, optimum, maximum) in shapes.items():
            profile.set_shape(name, to_dims(minimum), to_dims(optimum), to_dims(maximum))
            self._settings.append(f"{name} {' … '.join(map(format_shape, (minimum, optimum, maximum)))}")
        logged = self._dialect.log.count
        if self.handle.add_optimization_profile(profile) < 0:
            reason = "; ".join(self._dialect.log.errors_since(logged)) or "it gives no reason"
            what = f"{self._dialect.title} rejects the batch sizes {self._settings[-1]}: {reason}."
            raise BackendError(what, "Choose another --batch.")
        self._share_profile()

    def _share_profile(self) -> None:
        """Let several contexts of the engine share its only profile. From 10 on they always can: the preview feature is
        deprecated there and removed in 11. Bindings by index were removed in 10 too, so their presence identifies 8.6.
        """
        sharing = self._dialect.find_member("PreviewFeature", "PROFILE_SHARING_0806")
        if sharing is not None and self._dialect.has_attribute("ICudaEngine", "num_bindings"):
            self.handle.set_preview_feature(sharing, True)
            self._settings.append("PROFILE_SHARING_0806")

    def apply_options(self, options: BuildOptions, network: tensorrt.INetworkDefinition) -> None:
        """Apply all options except the batch. Call `set_profile` first: layers are assigned to the accelerator by their
        shapes. BackendError for an option that this version or this machine does not support.
        """
        if options.workspace_mib is not None:
            self._set_workspace(options.workspace_mib)
        if options.optimization_level is not None:
            self._set_optimization_level(options.optimization_level)
        if options.version_compatible:
            self._set_flag("VERSION_COMPATIBLE", "version-compatible engines", "Build without --version-compatible.")
        if options.hardware_compatible:
            self._set_ampere_plus()
        if options.strip_weights:
            self._set_flag("STRIP_PLAN", "engines without weights", "Build without --strip-weights.")
        if options.refittable:
            self._set_flag("REFIT", "refittable engines", "Build without --refittable.")
        elif options.strip_weights:
            self._set_flag("REFIT_IDENTICAL", "refit with the same weights", "Build without --strip-weights.")
        if options.compute_capabilities:
            self._set_target_capabilities(options.compute_capabilities)
        if options.dla_core is not None:
            self._set_dla_core(options.dla_core, options.batch, network)

    def _set_workspace(self, mib: int) -> None:
        if mib < 1:
            raise UsageError(f"--workspace {mib} is invalid.", "Give at least 1 MiB, or omit it.")
        pool = self._dialect.trt.MemoryPoolType.WORKSPACE
        self.handle.set_memory_pool_limit(pool, mib << 20)
        granted = self.handle.get_memory_pool_limit(pool)
        if granted != mib << 20:  # a limit above the GPU's memory is logged as an error and then ignored
            what = f"{self._dialect.title} does not grant a workspace of {mib} MiB."
            raise BackendError(what, f"Set --workspace to at most {granted >> 20}, or omit it.")
        self._settings.append(f"WORKSPACE {mib} MiB")

    def _set_optimization_level(self, level: int) -> None:
        self.handle.builder_optimization_level = level
        if self.handle.builder_optimization_level != level:  # observed in 1.7.1: 9 silently becomes 5
            raise self._dialect.unsupported(f"optimization level {level}", "Choose 0 to 5.")
        self._settings.append(f"builder_optimization_level {level}")

    def _set_ampere_plus(self) -> None:
        if self._dialect.is_rtx:  # 1.7.1 warns that it is unsupported and continues
            remedy = "Omit it: TensorRT-RTX engines run on all GPUs from Ampere on, unless built for specific ones."
            raise self._dialect.unsupported("hardware compatibility level", remedy)
        self.handle.hardware_compatibility_level = self._dialect.trt.HardwareCompatibilityLevel.AMPERE_PLUS
        self._settings.append("AMPERE_PLUS")

    def _set_target_capabilities(self, capabilities: tuple[int, ...]) -> None:
        if not self._dialect.has_attribute("IBuilderConfig", "set_compute_capability"):
            remedy = "It builds for the GPU it runs on; to build for others use --target tensorrt-rtx."
            raise self._dialect.unsupported("compute capabilities to build for", remedy)
        supported = [name for name in self._dialect.member_names("ComputeCapability") if name.startswith("SM")]
        for capability in capabilities:
            if f"SM{capability}" not in supported:
                choices = ", ".join(name.removeprefix("SM") for name in supported)
                raise self._dialect.unsupported(f"compute capability {capability}", f"Choose from {choices}.")
        config: Any = self.handle  # the stubs are TensorRT's and lack what only TensorRT-RTX has
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            target = self._dialect.find_member("ComputeCapability", f"SM{capability}")
            if not config.set_compute_capability(target, index):
                raise self._dialect.unsupported(f"engines for compute capability {capability}", "Omit it.")
            self._settings.append(f"SM{capability}")

    def _set_dla_core(self, core: int, batch: BatchRange, network: tensorrt.INetworkDefinition) -> None:
        if not batch.static:
            what = (
                f"A deep-learning accelerator needs a fixed batch, not {batch.minimum}:{batch.optimum}:{batch.maximum}."
            )
            raise UsageError(what, f"Give --batch {':'.join([str(batch.optimum)] * 3)}.")
        cores = self._builder.num_DLA_cores
        if not 0 <= core < cores:
            available = f"DLA cores 0 to {cores - 1}" if cores else "no deep-learning accelerator"
            what = f"DLA core {core} does not exist: {self._dialect.title} finds {available} on this machine."
            raise BackendError(what, "Build without --dla-core." if not cores else "Choose one of them.")
        self.handle.default_device_type = self._dialect.trt.DeviceType.DLA
        self.handle.DLA_core = core
        self.handle.set_flag(self._dialect.trt.BuilderFlag.GPU_FALLBACK)
        layers = (network.get_layer(index) for index in range(network.num_layers))
        on_gpu = [layer.name for layer in layers if not self.handle.can_run_on_DLA(layer)]
        self._settings += [f"DLA core {core}", f"GPU_FALLBACK: {', '.join(on_gpu) or 'no layer'}"]

    def set_monitor(self, monitor: tensorrt.IProgressMonitor) -> None:
        """Report build progress to the monitor. 8.6 has no monitors; check `Dialect.has_attribute` first."""
        self.handle.progress_monitor = monitor

    @property
    def keeps_timings(self) -> bool:
        """Whether the builder times tactics and its timing cache is worth saving. TensorRT-RTX's is always empty."""
        return not self._dialect.is_rtx

    def use_timings(self, blob: bytes) -> None:
        """Set the timing cache; an empty one where `blob` is empty, damaged or from another GPU."""
        cache = or_none(self.handle.create_timing_cache(blob))
        if cache is None or not self.handle.set_timing_cache(cache, False):
            self.handle.set_timing_cache(self.handle.create_timing_cache(b""), False)

    def merge_timings(self, blob: bytes) -> bytes | None:
        """Serialize the timing cache after the build, merged with `blob`; None where there is no cache."""
        cache = or_none(self.handle.get_timing_cache())
        if cache is None:
            return None
        other = or_none(self.handle.create_timing_cache(blob))
        if blob and other is not None:
            cache.combine(other, False)
        return bytes(memoryview(cache.serialize()))

    def _set_flag(self, name: str, meaning: str, remedy: str) -> None:
        flag = self._dialect.find_member("BuilderFlag", name)
        if flag is None:
            raise self._dialect.unsupported(meaning, remedy)
        self.handle.set_flag(flag)
        self._settings.append(name)
