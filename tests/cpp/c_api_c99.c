/* A whole bundle in C99: tests/test_cpp_package.py compiles it with -std=c99 -pedantic -Werror, and compares.
 *
 *   c_api_c99 BUNDLE HEIGHT WIDTH <PIXELS
 *
 * Pixels are height×width×3 bytes, RGB. A line for each input and output, then one for each of the five best classes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "deploykit/deploykit.h"

static void require(int code, deploykit_error* error) {
    if (code != DEPLOYKIT_OK) {
        fprintf(stderr, "%s\n", deploykit_error_message(error));
        deploykit_error_free(error);
        exit(code);
    }
}

static void describe(const char* kind, const deploykit_tensor_spec* spec) {
    printf("%s %s %d %s", kind, spec->name, (int)spec->type, spec->layout);
    for (size_t axis = 0; axis < spec->rank; ++axis) {
        printf(" %ld", (long)spec->shape[axis]);
    }
    printf("\n");
}

static void describe_all(const deploykit_engine* engine) {
    deploykit_error* error = NULL;
    const deploykit_tensor_spec* specs = NULL;
    size_t count = 0;
    require(deploykit_engine_inputs(engine, &specs, &count, &error), error);
    for (size_t index = 0; index < count; ++index) {
        describe("input", &specs[index]);
    }
    require(deploykit_engine_outputs(engine, &specs, &count, &error), error);
    for (size_t index = 0; index < count; ++index) {
        describe("output", &specs[index]);
    }
}

static unsigned char* pixels_of_stdin(int height, int width) {
    const size_t bytes = (size_t)height * (size_t)width * 3;
    unsigned char* pixels = malloc(bytes);
    if (pixels == NULL || fread(pixels, 1, bytes, stdin) != bytes) {
        fprintf(stderr, "standard input: it is no image of %d rows of %d pixels.\n", height, width);
        exit(DEPLOYKIT_BAD_INPUT);
    }
    return pixels;
}

int main(int count, char** words) {
    if (count != 4) {
        fprintf(stderr, "usage: c_api_c99 BUNDLE HEIGHT WIDTH <PIXELS\n");
        return DEPLOYKIT_USAGE;
    }
    deploykit_error* error = NULL;
    deploykit_bundle* bundle = NULL;
    deploykit_engine* engine = NULL;
    deploykit_context* context = NULL;
    deploykit_preprocessor* preprocessor = NULL;
    const deploykit_engine_options options = {0};
    require(deploykit_bundle_open(words[1], &bundle, &error), error);
    require(deploykit_engine_load(bundle, &options, &engine, &error), error);
    require(deploykit_self_test(bundle, engine, &error), error);
    require(deploykit_preprocessor_create(bundle, &preprocessor, &error), error);
    require(deploykit_context_create(engine, &context, &error), error);
    deploykit_engine_free(engine); /* the context keeps what it needs */
    engine = NULL;
    require(deploykit_engine_load(bundle, NULL, &engine, &error), error);
    describe_all(engine);

    const int height = atoi(words[2]), width = atoi(words[3]);
    unsigned char* pixels = pixels_of_stdin(height, width);
    const deploykit_image image = {pixels, height, width, DEPLOYKIT_RGB, 0};
    deploykit_tensor input;
    const deploykit_tensor* outputs = NULL;
    size_t output_count = 0, best_count = 0;
    deploykit_prediction best[5];
    require(deploykit_preprocessor_run(preprocessor, &image, 1, &input, &error), error);
    require(deploykit_context_run(context, &input, 1, &outputs, &output_count, &error), error);
    require(deploykit_top_k(bundle, outputs, 0, 5, best, &best_count, &error), error);
    for (size_t rank = 0; rank < best_count; ++rank) {
        printf("best %lu %.6f %s\n", (unsigned long)best[rank].index, (double)best[rank].probability,
               best[rank].label == NULL ? "-" : best[rank].label);
    }
    free(pixels);
    deploykit_preprocessor_free(preprocessor);
    deploykit_context_free(context);
    deploykit_engine_free(engine);
    deploykit_bundle_free(bundle);
    return DEPLOYKIT_OK;
}
