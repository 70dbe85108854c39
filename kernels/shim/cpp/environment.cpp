// What the stand-in driver is in a process that loads it as the machine's own: nothing there calls shim_*, so ANTIPHON_SHIM
// says it, a setting a line:
//
//   kernels=PATH, checked=PATH   the kernels' libraries, plain and with every access checked
//   check=1                      run the checked ones
//   memory_bytes=N, capability=7.5, driver=12080, devices=2
//   fault=PATH                   once this file is there, the next launch fails: `lost` for ever, `refused` once; or never returns: `hangs`
#include "driver.h"

#include <algorithm>
#include <mutex>
#include <unistd.h>

using namespace shim;

extern "C" SHIM_API const char* shim_load_kernels(const char* path, const char* image, int checked);
extern "C" SHIM_API void shim_set_driver_version(int version);

namespace {

std::string fault_path;

void load(const std::string& path, int checked) {
    if (const char* error = shim_load_kernels(path.c_str(), "", checked)) {
        fprintf(stderr, "cuda shim: %s\n", error);
        abort();
    }
}

void adopt(const std::string& name, const std::string& value) {
    if (name == "kernels") return load(value, 0);
    if (name == "checked") return load(value, 1);
    if (name == "driver") return shim_set_driver_version(atoi(value.c_str()));
    if (name == "devices") return show_devices(atoi(value.c_str()));
    if (name == "fault") {
        fault_path = value;
        return;
    }
    for (int i = 0; i < DEVICES; i++) {
        Device& d = device(i);
        if (name == "check") {
            d.check = value == "1";
        } else if (name == "memory_bytes") {
            d.memory_bytes = strtoull(value.c_str(), nullptr, 10);
        } else if (name == "capability") {
            sscanf(value.c_str(), "%d.%d", &d.major, &d.minor);
        } else {
            fprintf(stderr, "cuda shim: ANTIPHON_SHIM has no setting %s\n", name.c_str());
            abort();
        }
    }
}

}  // namespace

namespace shim {

void read_environment() {
    static std::once_flag once;
    std::call_once(once, [] {
        const char* given = getenv("ANTIPHON_SHIM");
        if (!given) return;
        const std::string text = given;
        for (size_t at = 0; at < text.size();) {
            const size_t end = std::min(text.find('\n', at), text.size()), equals = text.find('=', at);
            if (equals < end) adopt(text.substr(at, equals - at), text.substr(equals + 1, end - equals - 1));
            at = end + 1;
        }
    });
}

void look_for_fault(Device& d) {
    if (fault_path.empty()) return;
    FILE* file = fopen(fault_path.c_str(), "r");
    if (!file) return;
    char word[16] = {};
    const bool is_read = fscanf(file, "%15s", word) == 1;
    fclose(file);
    if (!is_read) return;
    unlink(fault_path.c_str());
    if (strcmp(word, "hangs") == 0) {
        for (;;) pause();
    }
    const bool lost = strcmp(word, "lost") == 0;
    d.launch_fault = {1, lost ? ILLEGAL_ADDRESS : LAUNCH_OUT_OF_RESOURCES, lost};
}

}  // namespace shim
