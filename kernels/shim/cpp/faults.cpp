// A kernel that touches what is not there, or with the wrong alignment, in the build without the checker: the signal becomes a
// failed launch, as on a device. Signals outside kernels go to the handler before.
#include "fibers.h"

#include <csignal>
#include <sys/mman.h>
#include <ucontext.h>

namespace shim {

namespace {

struct sigaction before_segv, before_bus, before_fpe;
thread_local const void* fault_address;
thread_local int fault_signal;

void fail_here() {
    const char* what = fault_signal == SIGFPE ? "integer division by zero" : "touched memory that is not there, or misaligned";
    fail("%s, near %p", what, fault_address);
}

const struct sigaction& earlier(int number) {
    return number == SIGSEGV ? before_segv : number == SIGBUS ? before_bus : before_fpe;
}

void on_signal(int number, siginfo_t* info, void* context) {
    if (running_a_kernel()) {
        fault_address = info->si_addr;
        fault_signal = number;
        // The fiber goes on in `fail_here`, on its own stack, once the handler returns. 128: the red zone.
        auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
        uintptr_t top = ((uintptr_t)registers[REG_RSP] - 128) & ~(uintptr_t)15;
        registers[REG_RSP] = (greg_t)(top - 8);
        registers[REG_RIP] = (greg_t)(uintptr_t)&fail_here;
        return;
    }
    const struct sigaction& old = earlier(number);
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(number, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
        old.sa_handler(number);
    } else {
        signal(number, SIG_DFL);
    }
}

}  // namespace

void catch_faults() {
    // The handler cannot run on the fiber's stack if the fault was an overflow of that stack.
    static thread_local bool has_stack = false;
    if (!has_stack) {
        constexpr size_t SIZE = 64 << 10;
        stack_t stack{};
        stack.ss_sp = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stack.ss_size = SIZE;
        if (stack.ss_sp != MAP_FAILED) sigaltstack(&stack, nullptr);
        has_stack = true;
    }
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
        sigaction(SIGFPE, &action, &before_fpe);
    });
}

}  // namespace shim
