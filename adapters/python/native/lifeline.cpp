#include "lifeline.hpp"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>

namespace isthmus::python {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds grace{300};
constexpr std::chrono::seconds most_owed{10};

/// How long the threads of this process have been ready to run and had no processor.
std::chrono::nanoseconds owed() {
    std::uint64_t sum = 0;
    std::error_code failure;
    for (std::filesystem::directory_iterator task("/proc/self/task", failure), end; !failure && task != end;
         task.increment(failure)) {
        std::uint64_t ran = 0, waited = 0;
        std::ifstream(task->path() / "schedstat") >> ran >> waited;
        sum += waited;
    }
    return std::chrono::nanoseconds(sum);
}

std::mutex mutex;
std::set<std::string> sockets;  // guarded by it

/// The lifeline's thread; no Python.
void watch(int fd) {
    for (;;) {
        pollfd line{fd, POLLRDHUP, 0};
        const int ready = ::poll(&line, 1, -1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0 || (line.revents & POLLNVAL) != 0) return;
        if ((line.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) break;
    }
    ::kill(::getpid(), SIGTERM);
    // On a machine that has no time for this process, it has longer.
    const auto began = Clock::now();
    const auto before = owed();
    const auto more = [before] { return std::clamp<std::chrono::nanoseconds>(owed() - before, {}, most_owed); };
    while (Clock::now() - began < grace + more()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::lock_guard lock(mutex);
    for (const std::string& socket : sockets) {
        ::unlink(socket.c_str());
        ::unlink((socket.substr(0, socket.rfind('.')) + ".lock").c_str());
    }
    ::_exit(0);
}

}  // namespace

void owns_socket(const std::string& path) {
    std::lock_guard lock(mutex);
    sockets.insert(path);
}

void disowns_socket(const std::string& path) {
    std::lock_guard lock(mutex);
    sockets.erase(path);
}

PyObject* watch_parent(PyObject*, PyObject* number) {
    const long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) return nullptr;
    try {
        std::thread(watch, static_cast<int>(fd)).detach();
    } catch (const std::system_error& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
    Py_RETURN_NONE;
}

}  // namespace isthmus::python
