// A service that scores in threads: one model for all, a queue of jobs, answers through futures.
//     service BUNDLE [WORKERS]      asks a few questions about a grey image and prints the scores
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "vprm/vprm.hpp"

namespace {

struct Job {
    std::vector<std::uint8_t> rgb;  // owned: the library does not copy pixels
    int width_px, height_px;
    std::string question;
    std::vector<std::string> responses;
    std::promise<vprm::Result> answer;
};

class Service {
  public:
    Service(const std::string &bundle, int workers) : model_(bundle, options()) {
        for (int i = 0; i < workers; i++) workers_.emplace_back([this] { work(); });
    }

    ~Service() {
        std::unique_lock<std::mutex> lock(mutex_);
        is_ending_ = true;
        lock.unlock();
        changed_.notify_all();
        for (std::thread &worker : workers_) worker.join();
    }

    std::future<vprm::Result> submit(Job job) {
        std::future<vprm::Result> answer = job.answer.get_future();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            jobs_.push_back(std::move(job));
        }
        changed_.notify_one();
        return answer;
    }

  private:
    // One thread for each engine call: with several workers, calls side by side are faster than each on all cores.
    static vprm::ModelOptions options() {
        vprm::ModelOptions options;
        options.threads(1).prefix_cache_bytes(std::size_t{64} << 20);
        return options;
    }

    void work() {
        while (true) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return is_ending_ || !jobs_.empty(); });
            if (jobs_.empty()) return;
            Job job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            try {
                vprm::Input input(job.question);
                input.add_rgb8(job.rgb, job.width_px, job.height_px);
                vprm::Responses responses;
                for (const std::string &text : job.responses) responses.add(text);
                job.answer.set_value(model_.score(input, responses));
            } catch (...) {
                job.answer.set_exception(std::current_exception());
            }
        }
    }

    vprm::Model model_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> jobs_;
    bool is_ending_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace

int main(int count, char **arguments) try {
    if (count < 2) return std::fputs("usage: service BUNDLE [WORKERS]\n", stderr), 2;
    Service service(arguments[1], count > 2 ? std::stoi(arguments[2]) : 2);
    std::vector<std::future<vprm::Result>> answers;
    for (int i = 0; i < 4; i++) {
        Job job{std::vector<std::uint8_t>(640 * 480 * 3, 128), 640, 480, "What is " + std::to_string(i) + " + 1?", {}, {}};
        job.responses = {"It is " + std::to_string(i + 1) + ".", "One more.\n\nSo it is 9."};
        answers.push_back(service.submit(std::move(job)));
    }
    for (auto &answer : answers)
        for (const auto &candidate : answer.get().candidates()) std::printf("%.6f\n", candidate.score.value_or(-1));
} catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
