// Other processes for tests about death: this very program again, playing one hidden test case.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "catch.hpp"
#include "support.hpp"

namespace isthmus::test {

/// A directory for the sockets of this test program, gone when it ends.
class RuntimeDirectory {
public:
    RuntimeDirectory() {
        char path[] = "/tmp/isthmus-test-XXXXXX";
        path_ = ::mkdtemp(path);
        ::setenv("XDG_RUNTIME_DIR", path, 1);
    }
    ~RuntimeDirectory() { std::filesystem::remove_all(path_); }
    const std::string& path() const { return path_; }
    static const std::string& use() {
        static RuntimeDirectory directory;
        return directory.path();
    }

private:
    std::string path_;
};

/// A process that plays the test case named "process: <part>" on a bus, until it ends or is killed.
class Process {
public:
    Process(const std::string& part, const std::string& bus) {
        const std::string name = "process: " + part;
        const std::string told = "ISTHMUS_TEST_BUS=" + bus;
        std::vector<char*> environment{const_cast<char*>(told.c_str())};
        for (char** each = environ; *each; ++each) environment.push_back(*each);
        environment.push_back(nullptr);
        const char* arguments[] = {"bus_tests", name.c_str(), nullptr};
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
        REQUIRE(::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, const_cast<char**>(arguments),
                              environment.data()) == 0);
        ::posix_spawn_file_actions_destroy(&actions);
    }
    ~Process() {
        signal(SIGCONT);
        kill();
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    void signal(int number) const {
        if (pid_ > 0) ::kill(pid_, number);
    }
    void kill() {
        signal(SIGKILL);
        wait();
    }
    /// Its exit status, -1 when a signal ended it.
    int wait() {
        if (pid_ <= 0) return -1;
        int status = 0;
        ::waitpid(pid_, &status, 0);
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    pid_t pid() const { return pid_; }

private:
    pid_t pid_ = -1;
};

/// The bus that a process was told to play on.
inline std::string bus_of_process() {
    const char* bus = std::getenv("ISTHMUS_TEST_BUS");
    REQUIRE(bus != nullptr);
    return bus;
}

inline std::unique_ptr<Bus> join(const std::string& bus, bool service = false, std::chrono::milliseconds within = 10s,
                                 std::uint32_t worker = 0) {
    return Bus::join(rendezvous::ask(bus, {PeerKind::unknown, service, "test", worker}, {Clock::now() + within}));
}

/// Small rings and a small arena, so that tests meet their ends.
inline rendezvous::BrokerOptions small(const std::string& bus) {
    RuntimeDirectory::use();
    return {.bus = bus, .arena_bytes = 16 << 20, .ring_bytes = 64 << 10};
}

}  // namespace isthmus::test
