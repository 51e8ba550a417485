"""The API of TensorRT's Python module by version: the names that `doubles` consist of.

Extracted from NVIDIA's binding wheels, imported against empty libraries: 8.6.1, 10.3.0, 10.16.1.11 and 11.4.0.106, and
from TensorRT-RTX 1.7.1.116 itself. `all` lists what the five have in common, a version what it has in addition; the
dozens of add_* methods of networks are left out. Enum members have their original values: 11 renumbered its flags.
"""

from typing import Final

ENUMS: Final[dict[str, dict[str, str]]] = {
    "NetworkDefinitionCreationFlag": {
        "8.6": "EXPLICIT_BATCH=0 EXPLICIT_PRECISION=1",
        "10.3": "EXPLICIT_BATCH=0 STRONGLY_TYPED=1",
        "10.16": "EXPLICIT_BATCH=0 STRONGLY_TYPED=1 PREFER_AOT_PYTHON_PLUGINS=3 PREFER_JIT_PYTHON_PLUGINS=2",
        "11.4": "STRONGLY_TYPED=0 PREFER_AOT_PYTHON_PLUGINS=2 PREFER_JIT_PYTHON_PLUGINS=1",
        "rtx": "STRONGLY_TYPED=0",
    },
    "BuilderFlag": {
        "all": "DEBUG=2 GPU_FALLBACK=3",
        "8.6": """
            FP16=0 INT8=1 STRICT_TYPES=4 REFIT=5 DISABLE_TIMING_CACHE=6 TF32=7 SPARSE_WEIGHTS=8 SAFETY_SCOPE=9
            OBEY_PRECISION_CONSTRAINTS=10 PREFER_PRECISION_CONSTRAINTS=11 DIRECT_IO=12 REJECT_EMPTY_ALGORITHMS=13
            ENABLE_TACTIC_HEURISTIC=14 VERSION_COMPATIBLE=15 EXCLUDE_LEAN_RUNTIME=16 FP8=17
        """,
        "10.3": """
            FP16=0 BF16=17 INT8=1 REFIT=4 DISABLE_TIMING_CACHE=5 TF32=6 SPARSE_WEIGHTS=7 SAFETY_SCOPE=8
            OBEY_PRECISION_CONSTRAINTS=9 PREFER_PRECISION_CONSTRAINTS=10 DIRECT_IO=11 REJECT_EMPTY_ALGORITHMS=12
            VERSION_COMPATIBLE=13 EXCLUDE_LEAN_RUNTIME=14 FP8=15 ERROR_ON_TIMING_CACHE_MISS=16
            DISABLE_COMPILATION_CACHE=18 WEIGHTLESS=19 STRIP_PLAN=19 REFIT_IDENTICAL=20 WEIGHT_STREAMING=21 INT4=22
            REFIT_INDIVIDUAL=23
        """,
        "10.16": """
            FP16=0 BF16=17 INT8=1 REFIT=4 DISABLE_TIMING_CACHE=5 EDITABLE_TIMING_CACHE=27 TF32=6 SPARSE_WEIGHTS=7
            SAFETY_SCOPE=8 OBEY_PRECISION_CONSTRAINTS=9 PREFER_PRECISION_CONSTRAINTS=10 DIRECT_IO=11
            REJECT_EMPTY_ALGORITHMS=12 VERSION_COMPATIBLE=13 EXCLUDE_LEAN_RUNTIME=14 FP8=15
            ERROR_ON_TIMING_CACHE_MISS=16 DISABLE_COMPILATION_CACHE=18 WEIGHTLESS=19 STRIP_PLAN=19
            REFIT_IDENTICAL=20 WEIGHT_STREAMING=21 INT4=22 REFIT_INDIVIDUAL=23 STRICT_NANS=24 MONITOR_MEMORY=25
            FP4=26 DISTRIBUTIVE_INDEPENDENCE=28
        """,
        "11.4": """
            REFIT=4 DISABLE_TIMING_CACHE=5 EDITABLE_TIMING_CACHE=26 TF32=6 SPARSE_WEIGHTS=7 SAFETY_SCOPE=8
            DIRECT_IO=11 VERSION_COMPATIBLE=12 EXCLUDE_LEAN_RUNTIME=13 ERROR_ON_TIMING_CACHE_MISS=15
            DISABLE_COMPILATION_CACHE=17 STRIP_PLAN=18 REFIT_IDENTICAL=19 WEIGHT_STREAMING=20 REFIT_INDIVIDUAL=22
            STRICT_NANS=23 MONITOR_MEMORY=24 DISTRIBUTIVE_INDEPENDENCE=27
        """,
        "rtx": """
            REFIT=4 DISABLE_TIMING_CACHE=5 EDITABLE_TIMING_CACHE=26 TF32=6 SPARSE_WEIGHTS=7 SAFETY_SCOPE=8
            DIRECT_IO=11 VERSION_COMPATIBLE=12 EXCLUDE_LEAN_RUNTIME=13 ERROR_ON_TIMING_CACHE_MISS=15
            DISABLE_COMPILATION_CACHE=17 STRIP_PLAN=18 REFIT_IDENTICAL=19 WEIGHT_STREAMING=20 REFIT_INDIVIDUAL=22
            STRICT_NANS=23 MONITOR_MEMORY=24 DISTRIBUTIVE_INDEPENDENCE=27 REQUIRE_USER_ALLOCATION=28
        """,
    },
    "MemoryPoolType": {
        "all": "WORKSPACE=0 DLA_MANAGED_SRAM=1 DLA_LOCAL_DRAM=2 DLA_GLOBAL_DRAM=3 TACTIC_DRAM=4",
        "10.3": "TACTIC_SHARED_MEMORY=5",
        "10.16": "TACTIC_SHARED_MEMORY=5",
        "11.4": "TACTIC_SHARED_MEMORY=5",
        "rtx": "TACTIC_SHARED_MEMORY=5",
    },
    "ProfilingVerbosity": {
        "all": "LAYER_NAMES_ONLY=0 DETAILED=2 NONE=1",
        "8.6": "DEFAULT=0 VERBOSE=2",
    },
    "PreviewFeature": {
        "8.6": """
            FASTER_DYNAMIC_SHAPES_0805=0 DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805=1 PROFILE_SHARING_0806=2
        """,
        "10.3": "PROFILE_SHARING_0806=0 ALIASED_PLUGIN_IO_10_03=1",
        "10.16": """
            PROFILE_SHARING_0806=0 ALIASED_PLUGIN_IO_10_03=1 RUNTIME_ACTIVATION_RESIZE_10_10=2
            MULTIDEVICE_RUNTIME_10_16=3
        """,
        "11.4": "ALIASED_PLUGIN_IO_10_03=0 RUNTIME_ACTIVATION_RESIZE_10_10=1",
        "rtx": "ALIASED_PLUGIN_IO_10_03=0 RUNTIME_ACTIVATION_RESIZE_10_10=1",
    },
    "DynamicShapesKernelSpecializationStrategy": {
        "rtx": "LAZY=0 EAGER=1 NONE=2",
    },
    "HardwareCompatibilityLevel": {
        "all": "NONE=0 AMPERE_PLUS=1",
        "10.16": "SAME_COMPUTE_CAPABILITY=2",
        "11.4": "SAME_COMPUTE_CAPABILITY=2",
        "rtx": "SAME_COMPUTE_CAPABILITY=2",
    },
    "TensorIOMode": {
        "all": "NONE=0 INPUT=1 OUTPUT=2",
    },
    "DataType": {
        "all": "FLOAT=0 HALF=1 INT8=2 INT32=3 BOOL=4 UINT8=5 FP8=6",
        "10.3": "BF16=7 INT64=8 INT4=9",
        "10.16": "BF16=7 INT64=8 INT4=9 FP4=10 E8M0=11",
        "11.4": "BF16=7 INT64=8 INT4=9 FP4=10 E8M0=11",
        "rtx": "BF16=7 INT64=8 INT4=9 FP4=10 E8M0=11",
    },
    "DeviceType": {
        "all": "GPU=0 DLA=1",
    },
    "LayerInformationFormat": {
        "all": "ONELINE=0 JSON=1",
    },
    "ErrorCode": {
        "all": """
            SUCCESS=0 INTERNAL_ERROR=1 MEM_ALLOC_FAILED=2 MODEL_DESERIALIZE_FAILED=3 INVALID_VALUE=4 INVALID_GRAPH=5
            INVALID_NODE=6 UNSUPPORTED_GRAPH=7 UNSUPPORTED_NODE=8
        """,
        "10.3": """
            UNSUPPORTED_NODE_ATTR=9 UNSUPPORTED_NODE_INPUT=10 UNSUPPORTED_NODE_DATATYPE=11
            UNSUPPORTED_NODE_DYNAMIC=12 UNSUPPORTED_NODE_SHAPE=13 REFIT_FAILED=14
        """,
        "10.16": """
            UNSUPPORTED_NODE_ATTR=9 UNSUPPORTED_NODE_INPUT=10 UNSUPPORTED_NODE_DATATYPE=11
            UNSUPPORTED_NODE_DYNAMIC=12 UNSUPPORTED_NODE_SHAPE=13 REFIT_FAILED=14
        """,
        "11.4": """
            UNSUPPORTED_NODE_ATTR=9 UNSUPPORTED_NODE_INPUT=10 UNSUPPORTED_NODE_DATATYPE=11
            UNSUPPORTED_NODE_DYNAMIC=12 UNSUPPORTED_NODE_SHAPE=13 REFIT_FAILED=14
        """,
        "rtx": """
            UNSUPPORTED_NODE_ATTR=9 UNSUPPORTED_NODE_INPUT=10 UNSUPPORTED_NODE_DATATYPE=11
            UNSUPPORTED_NODE_DYNAMIC=12 UNSUPPORTED_NODE_SHAPE=13 REFIT_FAILED=14
        """,
    },
    "ComputeCapability": {
        "rtx": "NONE=0 CURRENT=1 SM75=75 SM80=80 SM86=86 SM89=89 SM120=120 SM121=121",
    },
}

CLASSES: Final[dict[str, dict[str, str]]] = {
    "Builder": {
        "all": """
            build_serialized_network create_builder_config create_network create_optimization_profile error_recorder
            get_plugin_registry gpu_allocator is_network_supported logger max_DLA_batch_size max_threads
            num_DLA_cores reset
        """,
        "8.6": "build_engine max_batch_size platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
        "10.3": "platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
        "10.16": """
            build_engine_with_config build_serialized_network_to_stream platform_has_fast_fp16
            platform_has_fast_int8 platform_has_tf32
        """,
        "11.4": "build_engine_with_config build_serialized_network_to_stream",
        "rtx": "build_serialized_network_to_stream",
    },
    "IBuilderConfig": {
        "all": """
            DLA_core add_optimization_profile avg_timing_iterations builder_optimization_level can_run_on_DLA
            clear_flag create_timing_cache default_device_type engine_capability flags get_device_type get_flag
            get_memory_pool_limit get_preview_feature get_tactic_sources get_timing_cache
            hardware_compatibility_level is_device_type_set max_aux_streams num_optimization_profiles
            plugins_to_serialize profile_stream profiling_verbosity reset reset_device_type set_device_type set_flag
            set_memory_pool_limit set_preview_feature set_tactic_sources set_timing_cache
        """,
        "8.6": """
            algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag int8_calibrator
            max_workspace_size min_timing_iterations quantization_flags set_calibration_profile
            set_quantization_flag
        """,
        "10.3": """
            algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag int8_calibrator
            progress_monitor quantization_flags runtime_platform set_calibration_profile set_quantization_flag
        """,
        "10.16": """
            algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag int8_calibrator
            l2_limit_for_tiling max_num_tactics progress_monitor quantization_flags remote_auto_tuning_config
            runtime_platform set_calibration_profile set_quantization_flag tiling_optimization_level
        """,
        "11.4": """
            all_build_routes build_route l2_limit_for_tiling max_num_tactics progress_monitor
            remote_auto_tuning_config runtime_platform tiling_optimization_level
        """,
        "rtx": """
            all_build_routes build_route get_compute_capability l2_limit_for_tiling max_num_tactics
            num_compute_capabilities progress_monitor runtime_platform set_compute_capability
            tiling_optimization_level
        """,
    },
    "INetworkDefinition": {
        "all": """
            builder error_recorder get_input get_layer get_output mark_output mark_output_for_shapes name num_inputs
            num_layers num_outputs remove_tensor set_weights_name unmark_output unmark_output_for_shapes
        """,
        "8.6": "has_explicit_precision has_implicit_batch_dimension",
        "10.3": """
            are_weights_marked_refittable flags get_flag has_implicit_batch_dimension is_debug_tensor mark_debug
            mark_weights_refittable unmark_debug unmark_weights_refittable
        """,
        "10.16": """
            are_weights_marked_refittable flags get_flag has_implicit_batch_dimension is_debug_tensor mark_debug
            mark_unfused_tensors_as_debug_tensors mark_weights_refittable unmark_debug
            unmark_unfused_tensors_as_debug_tensors unmark_weights_refittable
        """,
        "11.4": """
            are_weights_marked_refittable flags get_flag has_implicit_batch_dimension is_debug_tensor mark_debug
            mark_unfused_tensors_as_debug_tensors mark_weights_refittable unmark_debug
            unmark_unfused_tensors_as_debug_tensors unmark_weights_refittable
        """,
        "rtx": """
            are_weights_marked_refittable flags get_flag is_debug_tensor mark_debug
            mark_unfused_tensors_as_debug_tensors mark_weights_refittable unmark_debug
            unmark_unfused_tensors_as_debug_tensors unmark_weights_refittable
        """,
    },
    "ITensor": {
        "all": """
            allowed_formats dtype get_dimension_name is_execution_tensor is_network_input is_network_output
            is_shape_tensor name set_dimension_name shape
        """,
        "8.6": "broadcast_across_batch dynamic_range location reset_dynamic_range set_dynamic_range",
        "10.3": "broadcast_across_batch dynamic_range location reset_dynamic_range set_dynamic_range",
        "10.16": "broadcast_across_batch dynamic_range location reset_dynamic_range set_dynamic_range",
        "11.4": "broadcast_across_batch location",
    },
    "ILayer": {
        "all": "get_input get_output get_output_type metadata name num_inputs num_outputs set_input type",
        "8.6": "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type",
        "10.3": "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type",
        "10.16": """
            num_ranks output_type_is_set precision precision_is_set reset_output_type reset_precision
            set_output_type
        """,
        "11.4": "num_ranks",
        "rtx": "num_ranks",
    },
    "IOptimizationProfile": {
        "all": "extra_memory_target get_shape get_shape_input set_shape set_shape_input",
        "11.4": "profile_stream",
        "rtx": "profile_stream",
    },
    "ITimingCache": {
        "all": "combine reset serialize",
        "10.16": "query queryKeys update",
        "11.4": "query queryKeys update",
        "rtx": "query queryKeys update",
    },
    "OnnxParser": {
        "all": """
            clear_errors clear_flag flags get_error get_flag get_used_vc_plugin_libraries num_errors parse
            parse_from_file set_flag supports_operator
        """,
        "8.6": "parse_with_weight_descriptors supports_model",
        "10.3": """
            get_layer_output_tensor get_subgraph_nodes is_subgraph_supported num_subgraphs
            parse_with_weight_descriptors supports_model supports_model_v2
        """,
        "10.16": """
            get_layer_output_tensor get_subgraph_nodes is_subgraph_supported load_initializer load_model_proto
            num_subgraphs parse_model_proto parse_with_weight_descriptors set_builder_config supports_model
            supports_model_v2
        """,
        "11.4": """
            get_layer_output_tensor get_subgraph_nodes is_subgraph_supported load_initializer load_model_proto
            num_subgraphs parse_model_proto set_builder_config supports_model_v2
        """,
        "rtx": """
            get_layer_output_tensor get_subgraph_nodes is_subgraph_supported load_initializer load_model_proto
            num_subgraphs parse_model_proto set_builder_config supports_model_v2
        """,
    },
    "ParserError": {
        "all": "code desc file func line node",
        "10.3": "local_function_stack local_function_stack_size node_name node_operator",
        "10.16": "local_function_stack local_function_stack_size node_name node_operator",
        "11.4": "local_function_stack local_function_stack_size node_name node_operator",
        "rtx": "local_function_stack local_function_stack_size node_name node_operator",
    },
    "IProgressMonitor": {
        "10.3": "phase_finish phase_start step_complete",
        "10.16": "phase_finish phase_start step_complete",
        "11.4": "phase_finish phase_start step_complete",
        "rtx": "phase_finish phase_start step_complete",
    },
    "Runtime": {
        "all": """
            DLA_core deserialize_cuda_engine engine_host_code_allowed error_recorder get_plugin_registry
            gpu_allocator load_runtime logger max_threads num_DLA_cores tempfile_control_flags temporary_directory
        """,
        "11.4": "dla_workspace_allocation_strategy",
        "rtx": "defer_weights_loading dla_workspace_allocation_strategy engine_header_size get_engine_validity",
    },
    "ICudaEngine": {
        "all": """
            create_engine_inspector create_execution_context engine_capability error_recorder
            get_tensor_bytes_per_component get_tensor_components_per_element get_tensor_dtype get_tensor_format
            get_tensor_format_desc get_tensor_location get_tensor_mode get_tensor_name get_tensor_profile_shape
            get_tensor_shape get_tensor_vectorized_dim hardware_compatibility_level is_shape_inference_io name
            num_aux_streams num_io_tensors num_layers num_optimization_profiles profiling_verbosity refittable
            serialize tactic_sources
        """,
        "8.6": """
            binding_is_input create_execution_context_without_device_memory device_memory_size
            get_binding_bytes_per_component get_binding_components_per_element get_binding_dtype get_binding_format
            get_binding_format_desc get_binding_index get_binding_name get_binding_shape get_binding_vectorized_dim
            get_location get_profile_shape get_profile_shape_input has_implicit_batch_dimension is_execution_binding
            is_shape_binding max_batch_size num_bindings
        """,
        "10.3": """
            create_execution_context_without_device_memory create_serialization_config device_memory_size
            device_memory_size_v2 get_device_memory_size_for_profile get_device_memory_size_for_profile_v2
            get_tensor_profile_values get_weight_streaming_automatic_budget has_implicit_batch_dimension
            is_debug_tensor minimum_weight_streaming_budget serialize_with_config streamable_weights_size
            weight_streaming_budget weight_streaming_budget_v2 weight_streaming_scratch_memory_size
        """,
        "10.16": """
            create_execution_context_without_device_memory create_runtime_config create_serialization_config
            device_memory_size device_memory_size_v2 get_aliased_input_tensor get_device_memory_size_for_profile
            get_device_memory_size_for_profile_v2 get_engine_stat get_tensor_profile_values
            get_weight_streaming_automatic_budget has_implicit_batch_dimension is_debug_tensor
            minimum_weight_streaming_budget serialize_with_config streamable_weights_size weight_streaming_budget
            weight_streaming_budget_v2 weight_streaming_scratch_memory_size
        """,
        "11.4": """
            create_runtime_config create_serialization_config device_memory_size_v2 get_aliased_input_tensor
            get_device_memory_size_for_profile_v2 get_engine_stat get_tensor_profile_values
            get_weight_streaming_automatic_budget is_debug_tensor serialize_with_config streamable_weights_size
            weight_streaming_budget_v2 weight_streaming_scratch_memory_size
        """,
        "rtx": """
            create_runtime_config create_serialization_config create_weights_manager device_memory_size_v2
            get_aliased_input_tensor get_device_memory_size_for_profile_v2 get_engine_stat get_tensor_profile_values
            get_weight_streaming_automatic_budget is_debug_tensor load_weights load_weights_async
            serialize_with_config streamable_weights_size unload_weights weight_streaming_budget_v2
            weight_streaming_scratch_memory_size weights_loaded
        """,
    },
    "IExecutionContext": {
        "all": """
            active_optimization_profile all_binding_shapes_specified debug_sync device_memory engine
            enqueue_emits_profile error_recorder execute_async_v3 execute_v2 get_input_consumed_event
            get_max_output_size get_output_allocator get_tensor_address get_tensor_shape get_tensor_strides
            infer_shapes name nvtx_verbosity persistent_cache_limit profiler report_to_profiler set_aux_streams
            set_input_consumed_event set_input_shape set_optimization_profile_async set_output_allocator
            set_tensor_address temporary_allocator
        """,
        "8.6": """
            all_shape_inputs_specified execute execute_async execute_async_v2 get_binding_shape get_shape
            get_strides set_binding_shape set_shape_input
        """,
        "10.3": """
            all_shape_inputs_specified get_debug_listener get_debug_state set_all_tensors_debug_state
            set_debug_listener set_device_memory set_tensor_debug_state update_device_memory_size_for_shapes
        """,
        "10.16": """
            all_shape_inputs_specified get_debug_listener get_debug_state get_runtime_config
            set_all_tensors_debug_state set_communicator set_debug_listener set_device_memory set_tensor_debug_state
            unfused_tensors_debug_state update_device_memory_size_for_shapes
        """,
        "11.4": """
            get_debug_listener get_debug_state get_runtime_config set_all_tensors_debug_state set_communicator
            set_debug_listener set_device_memory set_tensor_debug_state unfused_tensors_debug_state
            update_device_memory_size_for_shapes
        """,
        "rtx": """
            get_debug_listener get_debug_state get_runtime_config is_stream_capturable set_all_tensors_debug_state
            set_communicator set_debug_listener set_device_memory set_tensor_debug_state unfused_tensors_debug_state
            update_device_memory_size_for_shapes
        """,
    },
    "IRuntimeConfig": {
        "10.16": "get_execution_context_allocation_strategy set_execution_context_allocation_strategy",
        "11.4": "get_execution_context_allocation_strategy set_execution_context_allocation_strategy",
        "rtx": """
            create_runtime_cache cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy
            get_execution_context_allocation_strategy get_runtime_cache set_execution_context_allocation_strategy
            set_runtime_cache
        """,
    },
    "IRuntimeCache": {
        "rtx": "deserialize reset serialize",
    },
    "EngineInspector": {
        "all": "error_recorder execution_context get_engine_information get_layer_information",
    },
    "IProfiler": {
        "all": "report_layer_time",
    },
    "Refitter": {
        "all": """
            error_recorder get_all get_all_weights get_missing get_missing_weights logger max_threads
            refit_cuda_engine set_named_weights set_weights
        """,
        "8.6": "get_dynamic_range get_tensors_with_dynamic_range set_dynamic_range",
        "10.3": """
            get_dynamic_range get_named_weights get_tensors_with_dynamic_range get_weights_location
            get_weights_prototype refit_cuda_engine_async set_dynamic_range unset_named_weights weights_validation
        """,
        "10.16": """
            get_dynamic_range get_named_weights get_tensors_with_dynamic_range get_weights_location
            get_weights_prototype refit_cuda_engine_async set_dynamic_range unset_named_weights weights_validation
        """,
        "11.4": """
            get_named_weights get_weights_location get_weights_prototype refit_cuda_engine_async
            release_refit_resources unset_named_weights weights_validation
        """,
        "rtx": """
            get_named_weights get_weights_location get_weights_prototype refit_cuda_engine_async
            release_refit_resources unset_named_weights weights_validation
        """,
    },
    "OnnxParserRefitter": {
        "10.3": "clear_errors get_error num_errors refit_from_bytes refit_from_file",
        "10.16": """
            clear_errors get_error load_initializer load_model_proto num_errors refit_from_bytes refit_from_file
            refit_model_proto
        """,
        "11.4": """
            clear_errors get_error load_initializer load_model_proto num_errors refit_from_bytes refit_from_file
            refit_model_proto
        """,
        "rtx": """
            clear_errors get_error load_initializer load_model_proto num_errors refit_from_bytes refit_from_file
            refit_model_proto
        """,
    },
}


def words(kind: dict[str, dict[str, str]], name: str, version: str) -> list[str] | None:
    """Attributes of the class or enum `name` in that version; None if the version lacks it."""
    rows = kind[name]
    if "all" not in rows and version not in rows:
        return None
    return f"{rows.get('all', '')} {rows.get(version, '')}".split()
