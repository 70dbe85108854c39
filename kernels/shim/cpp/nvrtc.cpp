// Stands in for libnvrtc.so: "compiles" a .cu file to an image that the stand-in driver takes for that file's kernels, which
// g++ compiled before. Source, options and headers are looked at, so that a wrong call is an error here too.
#include "api.h"

#include <string>
#include <vector>

namespace {

enum : int { OK = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

struct Program {
    std::string source, name, log, image;
    std::vector<std::string> headers;
};

bool known_option(const std::string& option) {
    const char* known[] = {"--gpu-architecture=sm_", "--gpu-architecture=compute_", "-arch=sm_", "-arch=compute_", "--std=c++",
                           "-std=c++", "--use_fast_math", "-default-device", "--fmad=", "-D", "--define-macro=", "-lineinfo"};
    for (const char* prefix : known) {
        if (option.compare(0, strlen(prefix), prefix) == 0) return true;
    }
    return false;
}

/// The first file that the source includes and that was not supplied.
std::string missing_header(const Program& program) {
    for (size_t at = 0; (at = program.source.find("#include \"", at)) != std::string::npos;) {
        at += strlen("#include \"");
        const std::string wanted = program.source.substr(at, program.source.find('"', at) - at);
        bool found = false;
        for (const auto& header : program.headers) found |= header == wanted;
        if (!found && wanted != "cuda_shim.h") return wanted;
    }
    return {};
}

size_t copy_out(const std::string& from, char* to) {
    memcpy(to, from.c_str(), from.size() + 1);
    return OK;
}

}  // namespace

#define API extern "C" SHIM_API int

API nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 999;  // what this makes must never be taken for NVIDIA's, from a cache
    return OK;
}
API nvrtcCreateProgram(void** handle, const char* source, const char* name, int headers, const char* const*,
                       const char* const* include_names) {
    if (!source || !*source) return INVALID_INPUT;
    auto* program = new Program{source, name ? name : "default_program", {}, {}, {}};
    for (int i = 0; i < headers; i++) program->headers.push_back(include_names[i]);
    *handle = program;
    return OK;
}
API nvrtcDestroyProgram(void** handle) {
    delete static_cast<Program*>(*handle);
    *handle = nullptr;
    return OK;
}
API nvrtcCompileProgram(void* handle, int count, const char* const* options) {
    auto* program = static_cast<Program*>(handle);
    for (int i = 0; i < count; i++) {
        if (known_option(options[i])) continue;
        program->log = std::string("unrecognized option ") + options[i];
        return INVALID_OPTION;
    }
    const std::string missing = missing_header(*program);
    if (!missing.empty()) {
        program->log = program->name + ": cannot open source file \"" + missing + "\"";
        return COMPILATION;
    }
    program->image = "antiphon-shim:program " + program->name;
    return OK;
}
API nvrtcGetCUBINSize(void* handle, size_t* bytes) {
    *bytes = static_cast<Program*>(handle)->image.size() + 1;
    return OK;
}
API nvrtcGetCUBIN(void* handle, char* image) { return (int)copy_out(static_cast<Program*>(handle)->image, image); }
API nvrtcGetPTXSize(void* handle, size_t* bytes) { return nvrtcGetCUBINSize(handle, bytes); }
API nvrtcGetPTX(void* handle, char* image) { return nvrtcGetCUBIN(handle, image); }
API nvrtcGetProgramLogSize(void* handle, size_t* bytes) {
    *bytes = static_cast<Program*>(handle)->log.size() + 1;
    return OK;
}
API nvrtcGetProgramLog(void* handle, char* log) { return (int)copy_out(static_cast<Program*>(handle)->log, log); }
extern "C" SHIM_API const char* nvrtcGetErrorString(int code) { return code == OK ? "NVRTC_SUCCESS" : "NVRTC_ERROR"; }
