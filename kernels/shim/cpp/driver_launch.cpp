// Modules, functions and launches.
#include "driver.h"

#include <algorithm>
#include <dlfcn.h>
#include <link.h>

using namespace shim;

namespace {

constexpr const char* LIBRARY = "antiphon-shim:library ";
constexpr const char* PROGRAM = "antiphon-shim:program ";

std::mutex libraries_lock;
std::vector<std::unique_ptr<Library>> libraries;
Library* loading;

bool begins(const char* text, const char* prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

/// A module says which kernels it wants: those of a library that a test loaded, those of one file, or all.
bool read_image(const void* image, Module& module) {
    const auto* text = static_cast<const char*>(image);
    if (begins(text, LIBRARY)) {
        module.image = text + strlen(LIBRARY);
        return true;
    }
    if (begins(text, PROGRAM)) {
        module.program = text + strlen(PROGRAM);
        return true;
    }
    const uint8_t fatbin[4] = {0x50, 0xed, 0x55, 0xba};
    return memcmp(text, fatbin, 4) == 0 || memcmp(text, "\177ELF", 4) == 0 || begins(text, "//") || begins(text, ".version");
}

Result run_now(Device& d, Function& f, const dim3 grid, const dim3 block, uint32_t dynamic, std::vector<std::vector<char>>& values) {
    const Library* library = find_library(f.image, d.check);
    if (!library) {
        note_error(d, LAUNCH_FAILED, f.name + ": its library was not loaded");
        return LAUNCH_FAILED;
    }
    const Kernel& kernel = library->kernels.at(f.name);
    std::vector<void*> arguments;
    for (auto& value : values) arguments.push_back(value.data());
    d.launches++;
    d.launched[f.name]++;
    if (d.launch_fault.at > 0 && d.launch_fault.sticky && --d.launch_fault.at == 0) {
        note_error(d, d.launch_fault.code, f.name + ": a fault that the test planted");
        return d.launch_fault.code;
    }
    const std::string error = run(d, Launch{&kernel, library, grid, block, dynamic, arguments.data()});
    if (error.empty()) return OK;
    note_error(d, LAUNCH_FAILED, f.name + ": " + error);
    return LAUNCH_FAILED;
}

Result refuse(Device& d, const Function& f, Result code, const std::string& why) {
    note_error(d, code, f.name + ": " + why);
    return code;
}

Result launch(Function* f, dim3 grid, dim3 block, uint32_t dynamic, void* handle, void** arguments, void** extra) {
    Stream* s = stream_of(handle);
    if (!s || !f) return INVALID_HANDLE;
    Device& d = *s->device;
    ENTER(d);
    if (d.sticky) return d.sticky;
    look_for_fault(d);
    if (f->device != &d) return refuse(d, *f, INVALID_HANDLE, "a function of another device");
    if (extra) return refuse(d, *f, NOT_SUPPORTED, "arguments packed into a buffer");
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) {
        return refuse(d, *f, INVALID_VALUE, "a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z));
    }
    if (!threads || threads > THREADS_MAX || block.z > 64) {
        return refuse(d, *f, INVALID_VALUE, "a block of " + std::to_string(threads) + " threads");
    }
    if (dynamic > (uint32_t)f->dynamic_max) {
        return refuse(d, *f, INVALID_VALUE, std::to_string(dynamic) + " bytes of shared memory, " + std::to_string(f->dynamic_max) + " allowed");
    }
    if (is_refused(d)) return refuse(d, *f, d.launch_fault.code, "a fault that the test planted");
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t i = 0; i < f->kernel->sizes.size(); i++) {
        const auto* bytes = static_cast<const char*>(arguments[i]);
        values->emplace_back(bytes, bytes + f->kernel->sizes[i]);
    }
    return put(s, [=, &d] { return run_now(d, *f, grid, block, dynamic, *values); });
}

int find_code(dl_phdr_info* info, size_t, void* data) {
    auto* library = static_cast<Library*>(data);
    if (info->dlpi_addr != library->code_low) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& part = info->dlpi_phdr[i];
        if (part.p_type == PT_LOAD) library->code_high = std::max(library->code_high, info->dlpi_addr + part.p_vaddr + part.p_memsz);
    }
    return 1;
}

}  // namespace

namespace shim {

void register_kernel(const char* name, const char* file, void* function, Trampoline trampoline, const uint32_t* sizes, size_t count) {
    const char* slash = strrchr(file, '/');
    const Kernel kernel{name, slash ? slash + 1 : file, function, trampoline, {sizes, sizes + count}};
    if (!loading) return;
    if (!loading->kernels.emplace(name, kernel).second) {
        fprintf(stderr, "cuda shim: two kernels are called %s\n", name);
        abort();
    }
}

bool is_refused(Device& d) { return d.launch_fault.at > 0 && !d.launch_fault.sticky && --d.launch_fault.at == 0; }

Library* find_library(const std::string& image, bool checked) {
    std::lock_guard<std::mutex> guard(libraries_lock);
    for (auto& library : libraries) {
        if (library->image == image && library->checked == checked) return library.get();
    }
    return nullptr;
}

}  // namespace shim

/// Loads the kernels of a library file; a module whose image names `image` gets them, or any other module if it is empty.
extern "C" SHIM_API const char* shim_load_kernels(const char* path, const char* image, int checked) {
    std::lock_guard<std::mutex> guard(libraries_lock);
    static thread_local std::string error;
    for (auto& library : libraries) {
        if (library->image == image && library->checked == (checked != 0)) return nullptr;
    }
    auto library = std::make_unique<Library>();
    library->image = image;
    library->checked = checked != 0;
    loading = library.get();
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    loading = nullptr;
    if (!handle) {
        error = dlerror();
        return error.c_str();
    }
    link_map* map;
    dlinfo(handle, RTLD_DI_LINKMAP, &map);
    library->code_low = library->code_high = map->l_addr;
    dl_iterate_phdr(find_code, library.get());
    libraries.push_back(std::move(library));
    return nullptr;
}

API cuModuleLoadData(void** handle, const void* image) {
    ENTER_CONTEXT();
    if (d->sticky) return d->sticky;
    // As an older driver answers code of CUDA 13, whichever compiler made it.
    if (version() < 13000) return NO_BINARY_FOR_GPU;
    auto module = std::make_unique<Module>();
    module->device = d;
    if (!read_image(image, *module)) return INVALID_IMAGE;
    *handle = module.release();
    return OK;
}
API cuModuleLoadDataEx(void** handle, const void* image, unsigned, int*, void**) { return cuModuleLoadData(handle, image); }
API cuModuleLoadFatBinary(void** handle, const void* image) { return cuModuleLoadData(handle, image); }
API cuModuleUnload(void* handle) {
    auto* module = static_cast<Module*>(handle);
    ENTER(*module->device);
    finish_all(*module->device);
    delete module;
    return OK;
}
API cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
    auto* module = static_cast<Module*>(module_handle);
    ENTER(*module->device);
    const std::string& planted = module->device->planted;
    const Library* library = module->image.empty() && !planted.empty() ? find_library(planted, false) : nullptr;
    const bool is_planted = library && library->kernels.count(name);
    const std::string& image = is_planted ? planted : module->image;
    if (!is_planted) library = find_library(image, false);
    if (!library) library = find_library(image, true);
    if (!library) return NOT_FOUND;
    const auto found = library->kernels.find(name);
    if (found == library->kernels.end() || (!module->program.empty() && found->second.file != module->program)) {
        note_error(*module->device, NOT_FOUND, std::string("no kernel ") + name);
        return NOT_FOUND;
    }
    auto function = std::make_unique<Function>();
    function->device = module->device;
    function->image = image;
    function->name = name;
    function->kernel = &found->second;
    *handle = function.get();
    module->functions.push_back(std::move(function));
    return OK;
}
API cuFuncSetAttribute(void* handle, int which, int value) {
    auto* f = static_cast<Function*>(handle);
    ENTER(*f->device);
    if (which != 8) return OK;  // 8: dynamic shared memory
    if (value < 0 || (size_t)value > shared_max(*f->device)) {
        return refuse(*f->device, *f, INVALID_VALUE, std::to_string(value) + " bytes of shared memory, the device gives a block " + std::to_string(shared_max(*f->device)));
    }
    f->dynamic_max = value;
    return OK;
}
API cuFuncGetAttribute(int* value, int which, void* handle) {
    const auto* f = static_cast<Function*>(handle);
    const int arch = f->device->major * 10 + f->device->minor;
    const int known[] = {(int)THREADS_MAX, 0, 0, 0, 32, arch, arch, 0, f->dynamic_max};
    *value = which >= 0 && which < 9 ? known[which] : 0;
    return OK;
}
API cuFuncSetCacheConfig(void*, int) { return OK; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic) {
    if (!handle || threads <= 0 || threads > (int)THREADS_MAX) return INVALID_VALUE;
    const Multiprocessor has = multiprocessor(*static_cast<Function*>(handle)->device);
    const int by_memory = dynamic ? (int)(has.shared_bytes / (dynamic + 1024)) : has.blocks;
    *blocks = std::min({has.blocks, has.threads / threads, by_memory});
    return OK;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t dynamic, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, dynamic);
}
API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic,
                   void* stream, void** arguments, void** extra) {
    return launch(static_cast<Function*>(f), dim3(gx, gy, gz), dim3(bx, by, bz), dynamic, stream, arguments, extra);
}

struct LaunchAttribute {
    int id, padding;
    char value[64];
};
struct LaunchConfig {
    unsigned grid[3], block[3], dynamic;
    void* stream;
    LaunchAttribute* attributes;
    unsigned count;
};
API cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
    auto* f = static_cast<Function*>(function);
    for (unsigned i = 0; i < config->count; i++) {
        unsigned cluster[3];
        memcpy(cluster, config->attributes[i].value, sizeof cluster);
        const bool clusters = config->attributes[i].id == 4 && cluster[0] * cluster[1] * cluster[2] != 1;
        if (clusters) return refuse(*f->device, *f, NOT_SUPPORTED, "the shim has no clusters");
    }
    const unsigned *g = config->grid, *b = config->block;
    return launch(f, dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), config->dynamic, config->stream, arguments, extra);
}
